package conformance

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

var trialRuns = flag.Int("proxy-trial", 0,
	"instead of the tests, run a suite so many times directly and through a bare httputil.ReverseProxy, and print what differs")

// proxy is a bare reverse proxy and how often its transport failed.
type proxy struct {
	*httputil.ReverseProxy
	// whole makes it read a request's body to its end before it passes the
	// request on.
	whole bool
	// unsent counts requests whose body could not be written, though the client
	// had sent all of it; cut counts answers that broke off for that reason.
	unsent, cut atomic.Int64
}

// newProxy returns a proxy in front of address.
func newProxy(address string, whole bool) *proxy {
	p := &proxy{whole: whole}
	p.ReverseProxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: address})
			r.Out.Host = r.In.Host
		},
		ErrorLog: log.New(p, "", 0),
	}
	return p
}

// Write takes the lines that the proxy logs.
func (p *proxy) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte("read error during body copy")) {
		p.cut.Add(1)
	}
	return len(line), nil
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	trace := &httptrace.ClientTrace{WroteRequest: func(info httptrace.WroteRequestInfo) {
		if info.Err != nil {
			p.unsent.Add(1)
		}
	}}
	r = r.WithContext(httptrace.WithClientTrace(r.Context(), trace))
	if p.whole {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	p.ReverseProxy.ServeHTTP(w, r)
}

// trial compares a bare reverse proxy with the direct way and prints what it
// finds. README.md says what that was.
func trial(ctx context.Context, runs int) error {
	dir, err := os.MkdirTemp("", "leasehold-conformance-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	programs, err := prepare(ctx, dir, goSDK)
	if err != nil {
		return err
	}
	address, process, err := goSDK.start(ctx, programs[goSDK.name], dir, "server")
	if err != nil {
		return err
	}
	defer process.Kill()
	least, err := os.ReadFile(baselineFile)
	if err != nil {
		return err
	}
	want, err := parseBaseline(string(least))
	if err != nil {
		return err
	}
	for _, way := range []struct {
		name  string
		proxy *proxy
	}{
		{"directly", nil},
		{"bare ReverseProxy", newProxy(address, false)},
		{"ReverseProxy, body read first", newProxy(address, true)},
	} {
		if err := try(ctx, way.name, way.proxy, address, runs, dir, want); err != nil {
			return err
		}
	}
	return nil
}

// try runs a suite again and again one way.
func try(ctx context.Context, name string, p *proxy, address string, runs int, dir string, want baseline) error {
	if p != nil {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		address = listener.Addr().String()
		server := &http.Server{Handler: p, ReadHeaderTimeout: time.Minute}
		go server.Serve(listener)
		defer server.Close()
	}
	s := suites[1]
	worse := 0
	start := time.Now()
	for i := range runs {
		r, err := s.runAll(ctx, "http://"+address+"/mcp", filepath.Join(dir, fmt.Sprintf("%.6s-%t-%d", name, p != nil && p.whole, i)))
		if err != nil {
			return err
		}
		if short := want.short(pairing{goSDK.name, s.name}, r); len(short) > 0 {
			worse++
			fmt.Printf("  run %d: %s\n", i+1, strings.Join(slices.Sorted(maps.Keys(short)), ", "))
		}
	}
	fmt.Printf("%s: %d of %d runs below the baseline, %v", name, worse, runs, time.Since(start).Round(time.Second))
	if p != nil {
		fmt.Printf("; %d requests whose body could not be sent, %d answers cut off", p.unsent.Load(), p.cut.Load())
	}
	fmt.Println()
	return nil
}
