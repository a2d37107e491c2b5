package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/leasehold/leasehold/cmd/internal/certs/certtest"
)

// startWorker runs `leasehold worker` in this process, beside a dev that has the
// control plane and the demo, and returns the base URL for clients.
func startWorker(t *testing.T, dev *devRun, flags ...string) (base string, errs *output) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, errs := newOutput(`ready`), newOutput(`^never$`)
	args := append(append([]string{
		"worker", "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--control", dev.control, "--data-dir", t.TempDir(),
		"--drain-notice", "0s", "--allow-loopback-upstreams",
	}, dev.certified("worker", "guest")...), flags...)
	done := make(chan int, 1)
	go func() { done <- run(ctx, args, strings.NewReader(""), out, errs) }()
	t.Cleanup(func() {
		cancel()
		if code := <-done; code != exitOK {
			t.Errorf("worker ended with %d: %s", code, errs)
		}
	})
	select {
	case <-out.seen:
	case code := <-done:
		done <- code
		t.Fatalf("worker ended with %d before it was ready: %s", code, errs)
	case <-time.After(startLimit):
		t.Fatalf("worker is not ready: %s", errs)
	}
	match := regexp.MustCompile(`(https?)=(\S+)`).FindStringSubmatch(out.String())
	return match[1] + "://" + match[2], errs
}

// certified issues a certificate of dev's authority and returns the flags for it.
func (d *devRun) certified(role, name string) []string {
	d.t.Helper()
	dir := filepath.Join(d.dir, devCertsDir)
	if code, _, stderr := call(d.t, "", "certs", "issue", "--dir", dir, "--role", role, "--name", name); code != exitOK {
		d.t.Fatalf("certs issue: exit code %d: %s", code, stderr)
	}
	return []string{
		"--cluster-ca", filepath.Join(dir, "ca.crt"),
		"--cluster-cert", filepath.Join(dir, name+".crt"), "--cluster-key", filepath.Join(dir, name+".key"),
	}
}

// browser sends requests of one protocol version, and trusts the certificates given.
type browser struct {
	*http.Client
	transport *http.Transport
}

func newBrowser(t *testing.T, http2 bool, trusted ...certtest.Pair) *browser {
	t.Helper()
	roots := x509.NewCertPool()
	for _, pair := range trusted {
		if !roots.AppendCertsFromPEM(pair.Cert) {
			t.Fatal("certificate is not PEM")
		}
	}
	var protocols http.Protocols
	protocols.SetHTTP1(!http2)
	protocols.SetHTTP2(http2)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, Protocols: &protocols}
	t.Cleanup(transport.CloseIdleConnections)
	return &browser{Client: &http.Client{Transport: transport, Timeout: startLimit}, transport: transport}
}

// send posts a message of the demo's session, "" for a new one.
func (b *browser) send(t *testing.T, base, session, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base+"/gateways/demo/mcp", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json, text/event-stream")
	if session != "" {
		request.Header.Set("Mcp-Session-Id", session)
		request.Header.Set("Mcp-Protocol-Version", "2025-11-25")
	}
	for i := 0; i < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	response, err := b.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(data)
}

const (
	initializeBody = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"1"}}}`
	incrementBody  = `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"counter_increment","arguments":{}}}`
)

func TestAWorkerServesClientsOverTLSWithTheNewestCertificate(t *testing.T) {
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	dev := startDev(t, t.TempDir(), "--workers", "1")
	defer dev.stop()
	t.Run("worker", func(t *testing.T) { // ends before dev, whose control plane it needs
		dir := t.TempDir()
		cert, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
		first, second := certtest.Make(t, "first"), certtest.Make(t, "second")
		first.Write(t, cert, key)
		base, errs := startWorker(t, dev, "--tls-cert", cert, "--tls-key", key)
		if !strings.HasPrefix(base, "https://") {
			t.Fatalf("the ready line has %s, want https", base)
		}
		clients := map[string]*browser{"HTTP/1.1": newBrowser(t, false, first, second), "HTTP/2.0": newBrowser(t, true, first, second)}
		sessions := map[string]string{}
		for proto, client := range clients {
			response, body := client.send(t, base, "", initializeBody)
			sessions[proto] = response.Header.Get("Mcp-Session-Id")
			if response.Proto != proto || response.StatusCode != http.StatusOK || sessions[proto] == "" {
				t.Fatalf("initialize over %s: got %d over %s: %s", proto, response.StatusCode, response.Proto, body)
			}
			client.send(t, base, sessions[proto], `{"jsonrpc":"2.0","method":"notifications/initialized"}`)
			if got := response.TLS.PeerCertificates[0].Subject.CommonName; got != "first" {
				t.Errorf("%s: certificate %q, want the first", proto, got)
			}
		}
		rotated := watch(t, errs, "certificate changed")
		second.Write(t, cert, key)
		begun := time.Now()
		for n := 1; ; n++ { // calls go on over open connections while the files change
			for proto, client := range clients {
				response, body := client.send(t, base, sessions[proto], incrementBody)
				if response.StatusCode != http.StatusOK || !strings.Contains(body, fmt.Sprintf(`"text":"%d"`, n)) {
					t.Fatalf("call %d over %s: got %d: %s", n, proto, response.StatusCode, body)
				}
				if got := response.TLS.PeerCertificates[0].Subject.CommonName; got != "first" {
					t.Fatalf("%s: an open connection changed its certificate to %q", proto, got)
				}
			}
			select {
			case <-rotated:
			case <-time.After(20 * time.Millisecond):
				if time.Since(begun) > startLimit/2 {
					t.Fatalf("the new certificate is not used: %s", errs)
				}
				continue
			}
			break
		}
		for proto, client := range clients {
			fresh := newBrowser(t, proto == "HTTP/2.0", second) // does not trust the first
			response, body := fresh.send(t, base, sessions[proto], incrementBody)
			if response.StatusCode != http.StatusOK || response.Proto != proto {
				t.Errorf("new connection over %s: got %d over %s: %s", proto, response.StatusCode, response.Proto, body)
			}
			if got := response.TLS.PeerCertificates[0].Subject.CommonName; got != "second" {
				t.Errorf("new connection over %s: certificate %q, want the second", proto, got)
			}
			client.CloseIdleConnections()
		}
	})
}

func TestAWorkerAdmitsTheOriginsHostsAndProxiesThatItsFlagsName(t *testing.T) {
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	dev := startDev(t, t.TempDir(), "--workers", "1")
	defer dev.stop()
	t.Run("worker", func(t *testing.T) {
		client := newBrowser(t, false)
		proxied, _ := startWorker(t, dev, "--allowed-origins", "https://app.example.com", "--allowed-hosts", "mcp.example.com",
			"--trusted-proxies", "10.0.0.0/8,127.0.0.1")
		direct, _ := startWorker(t, dev, "--allowed-hosts", "mcp.example.com", "--trusted-proxies", "10.0.0.0/8")
		for name, c := range map[string]struct {
			base    string
			headers []string
			want    int
			cors    string
		}{
			"listed origin":                 {proxied, []string{"Origin", "https://app.example.com"}, http.StatusOK, "https://app.example.com"},
			"other origin":                  {proxied, []string{"Origin", "https://evil.example.com"}, http.StatusForbidden, ""},
			"origin where none is listed":   {direct, []string{"Origin", "https://app.example.com"}, http.StatusForbidden, ""},
			"listed host by the proxy":      {proxied, []string{"X-Forwarded-Host", "mcp.example.com"}, http.StatusOK, ""},
			"other host by the proxy":       {proxied, []string{"X-Forwarded-Host", "evil.example.com"}, http.StatusForbidden, ""},
			"other host by somebody else":   {direct, []string{"X-Forwarded-Host", "evil.example.com"}, http.StatusOK, ""},
			"no header of any proxy at all": {direct, nil, http.StatusOK, ""},
		} {
			response, body := client.send(t, c.base, "", initializeBody, c.headers...)
			if response.StatusCode != c.want || response.Header.Get("Access-Control-Allow-Origin") != c.cors {
				t.Errorf("%s: got %d and origin %q, want %d and %q: %s", name, response.StatusCode, response.Header.Get("Access-Control-Allow-Origin"), c.want, c.cors, body)
			}
			if exposed := response.Header.Get("Access-Control-Expose-Headers"); c.cors != "" && (!strings.Contains(exposed, "Mcp-Session-Id") || !strings.Contains(exposed, "Mcp-Protocol-Version")) {
				t.Errorf("%s: pages may read %q, want Mcp-Session-Id and Mcp-Protocol-Version among them", name, exposed)
			}
		}
	})
}
