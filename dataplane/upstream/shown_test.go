package upstream

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/credential"
	"github.com/leasehold/leasehold/dataplane/dial"
	"github.com/leasehold/leasehold/dataplane/session"
)

// shows is an upstream at a URL that is shown a credential.
func shows(target *url.URL, c *credential.Credential) *config.Upstream {
	return &config.Upstream{URL: target, Credential: c, Fingerprint: [16]byte{1}}
}

func put(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// speak makes a request and returns the answer's status and body.
func speak(t *testing.T, c *Client, d *session.Dispatch) (int, string, error) {
	t.Helper()
	resp, err := c.Do(t.Context(), d)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func TestEveryRequestCarriesTheCredentialAsItIsNow(t *testing.T) {
	s := startServer(t, func(w http.ResponseWriter, r *http.Request) {
		for name := range r.Header {
			if strings.HasPrefix(name, credential.InternalPrefix) {
				t.Errorf("%s went out", name)
			}
		}
		fmt.Fprint(w, strings.Join(r.Header["Authorization"], "|"))
	})
	dir := t.TempDir()
	c := newClientWith(t, dial.Policy{AllowLoopback: true}, dir)
	u := shows(s.url, &credential.Credential{Bearer: &credential.Value{File: "token"}})
	put(t, filepath.Join(dir, "token"), []byte("one"))
	for _, method := range []string{http.MethodPost, http.MethodGet, http.MethodDelete} {
		d := &session.Dispatch{Upstream: u, Method: method, Header: http.Header{
			"Authorization": {"Bearer client's"}, credential.CallerField("Authorization"): {"Bearer client's"}}}
		if _, got, err := speak(t, c, d); err != nil || got != "Bearer one" {
			t.Errorf("%s: got %q, %v; want the credential and nothing else", method, got, err)
		}
	}
	put(t, filepath.Join(dir, "token"), []byte("two"))
	deadline := time.Now().Add(20 * time.Second)
	for {
		if _, got, err := speak(t, c, &session.Dispatch{Upstream: u, Method: http.MethodPost}); err != nil || time.Now().After(deadline) {
			t.Fatalf("got %q, %v; want the new token", got, err)
		} else if got == "Bearer two" {
			break
		}
		<-time.After(10 * time.Millisecond)
	}
	u.Credential = &credential.Credential{Bearer: &credential.Value{File: "none"}}
	u.Fingerprint[0]++
	_, _, err := speak(t, c, &session.Dispatch{Upstream: u, Method: http.MethodPost})
	telling := session.Telling(nil)
	if !errors.Is(err, session.ErrNotSent) || !errors.As(err, &telling) || strings.Contains(telling.ForClient(), "none") {
		t.Errorf("without the file: got %v, want that it was not sent, and words for the client", err)
	}
}

func TestARequestIsMadeAgainOnceWithAnotherTokenIfTheFirstIsRefused(t *testing.T) {
	var mu sync.Mutex
	issued, good := 0, "t1"
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		issued++
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":"t%d","expires_in":3600}`, issued)
	}))
	defer endpoint.Close()
	var bodies []string
	s := startServer(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		body, _ := io.ReadAll(r.Body)
		bodies = append(bodies, string(body))
		if r.Header.Get("Authorization") != "Bearer "+good {
			w.WriteHeader(http.StatusUnauthorized)
		}
		fmt.Fprint(w, r.Header.Get("Authorization"))
	})
	target, _ := url.Parse(endpoint.URL)
	u := shows(s.url, &credential.Credential{OAuth: &credential.OAuth{TokenURL: target, ClientID: "c", ClientSecret: credential.Value{Inline: credential.NewSecret("s")}}})
	c, gate := newTestClient(t), &passes{}
	want := func(body, token string, status, requests int) {
		t.Helper()
		bodies, gate.n = nil, 0
		got, text, err := speak(t, c, &session.Dispatch{Upstream: u, Method: http.MethodPost, Body: []byte(body), Gate: gate})
		if err != nil || got != status || text != "Bearer "+token || len(bodies) != requests || gate.n != requests {
			t.Errorf("%s: got %d %q, %v after %d requests and %d looks at the gate; want %d with %s after %d of each", body, got, text, err, len(bodies), gate.n, status, token, requests)
		}
		for _, b := range bodies {
			if b != body {
				t.Errorf("got the body %q, want %q", b, body)
			}
		}
	}
	want("first", "t1", 200, 1)
	good = "t2"
	want("revoked", "t2", 200, 2)
	good = "none"
	want("refused whatever the token", "t2", 401, 1)
	if issued != 2 {
		t.Errorf("tokens: got %d, want 2", issued)
	}
}

// passes is a gate that counts.
type passes struct{ n int }

func (p *passes) Pass() error { p.n++; return nil }

// selfSigned returns a certificate for 127.0.0.1 that is its own authority, and its
// key.
func selfSigned(t *testing.T, name string) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

func TestConnectionsAreNotSharedBetweenCertificates(t *testing.T) {
	serverCertificate, serverKey := selfSigned(t, "server")
	pair, err := tls.X509KeyPair(serverCertificate, serverKey)
	if err != nil {
		t.Fatal(err)
	}
	names, opened := map[string]int{}, 0
	var mu sync.Mutex
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := "nobody"
		if len(r.TLS.PeerCertificates) > 0 {
			name = r.TLS.PeerCertificates[0].Subject.CommonName
		}
		mu.Lock()
		defer mu.Unlock()
		names[name]++
		fmt.Fprint(w, name)
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequestClientCert}
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			mu.Lock()
			defer mu.Unlock()
			opened++
		}
	}
	s.StartTLS()
	defer s.Close()
	target, _ := url.Parse(s.URL)
	dir := t.TempDir()
	put(t, filepath.Join(dir, "ca.pem"), serverCertificate)
	one, oneKey := selfSigned(t, "one")
	put(t, filepath.Join(dir, "tls.crt"), one)
	put(t, filepath.Join(dir, "tls.key"), oneKey)
	c := newClientWith(t, dial.Policy{AllowLoopback: true}, dir)
	authorities := credential.Document{File: "ca.pem"}
	plain := &config.Upstream{URL: target, Fingerprint: [16]byte{1}, TLS: &credential.TLS{Authorities: authorities}}
	shown := &config.Upstream{URL: target, Fingerprint: [16]byte{2}, TLS: &credential.TLS{
		Authorities: authorities, Certificate: credential.Document{File: "tls.crt"}, PrivateKey: credential.Value{File: "tls.key"}}}
	ask := func(u *config.Upstream) string {
		t.Helper()
		_, got, err := speak(t, c, &session.Dispatch{Upstream: u, Method: http.MethodPost})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	for range 3 {
		if a, b := ask(plain), ask(shown); a != "nobody" || b != "one" {
			t.Fatalf("the server saw %q and %q, want nobody and one", a, b)
		}
	}
	if opened != 2 {
		t.Errorf("connections: got %d, want one for each certificate", opened)
	}
	two, twoKey := selfSigned(t, "two")
	put(t, filepath.Join(dir, "tls.crt"), two)
	put(t, filepath.Join(dir, "tls.key"), twoKey)
	for deadline := time.Now().Add(20 * time.Second); ask(shown) != "two"; <-time.After(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the new certificate is not used within 20 s")
		}
	}
	if got := ask(plain); got != "nobody" || opened != 3 {
		t.Errorf("got %q and %d connections, want nobody's connection kept and one new", got, opened)
	}
}

func TestARedirectIsNotFollowedToAnyAddress(t *testing.T) {
	other := startServer(t, func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") })
	for _, location := range []string{other.URL, "http://169.254.169.254/latest/meta-data/", "/elsewhere"} {
		s := startServer(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/mcp" {
				t.Errorf("%s was asked for", r.URL)
			}
			w.Header().Set("Location", location)
			w.WriteHeader(http.StatusTemporaryRedirect)
		})
		u := shows(s.url, &credential.Credential{Bearer: &credential.Value{Inline: credential.NewSecret("s")}})
		if status, _, err := speak(t, newTestClient(t), &session.Dispatch{Upstream: u, Method: http.MethodPost, Body: []byte("{}")}); err != nil || status != http.StatusTemporaryRedirect {
			t.Errorf("got %d, %v; want the redirect itself", status, err)
		}
	}
}

func TestARefusedAddressIsTheRulesBusinessAndNotTheCircuits(t *testing.T) {
	s := startServer(t, func(http.ResponseWriter, *http.Request) { t.Error("connected") })
	c := newClientWith(t, dial.Policy{}, "")
	answers := []string{"127.0.0.1", "::ffff:127.0.0.1", "169.254.169.254"}
	c.replicas.lookup = func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr(answers[0])}, nil
	}
	u := at(&url.URL{Scheme: "http", Host: "rebinding.test:" + s.url.Port()})
	for range answers {
		clear(c.replicas.names)
		for range 2 * openAfter {
			_, _, err := speak(t, c, &session.Dispatch{Upstream: u, Method: http.MethodPost})
			refused := (*dial.Refused)(nil)
			if !errors.Is(err, session.ErrNotSent) || !errors.As(err, &refused) || strings.Contains(refused.ForClient(), answers[0]) {
				t.Fatalf("%s: got %v, want the rule without the address", answers[0], err)
			}
		}
		answers = append(answers[1:], answers[0])
	}
	// An address that another worker recorded is checked as well.
	if _, _, err := speak(t, c, &session.Dispatch{Upstream: u, Method: http.MethodPost, Address: "127.0.0.1:" + s.url.Port()}); !errors.As(err, new(*dial.Refused)) {
		t.Errorf("got %v, want the rule", err)
	}
}

func TestAnUpstreamThatSaysNothingToANotificationIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestClient(t)
		c.connect = func(context.Context, string, string) (net.Conn, error) {
			here, there := net.Pipe()
			go io.Copy(io.Discard, there) // until the other end is closed
			return here, nil
		}
		began := time.Now()
		u := at(&url.URL{Scheme: "http", Host: "192.0.2.1:1"})
		for _, method := range []string{http.MethodPost, http.MethodDelete} {
			if _, _, err := speak(t, c, &session.Dispatch{Upstream: u, Method: method}); !errors.Is(err, session.ErrSilent) || time.Since(began) != headerTimeout {
				t.Errorf("%s: got %v after %v, want ErrSilent after %v", method, err, time.Since(began), headerTimeout)
			}
			began = time.Now()
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*headerTimeout)
		defer cancel()
		if _, err := c.Do(ctx, &session.Dispatch{Upstream: u, Method: http.MethodGet}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a stream that says nothing: got %v, want that it is waited for", err)
		}
	})
}
