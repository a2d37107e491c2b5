package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

// childPrefix begins the names under which this program runs as one of its own
// children.
const childPrefix = "child-"

// The children.
const (
	childUpstream = childPrefix + "upstream"
	childProxy    = childPrefix + "proxy"
)

// runChild serves as a child until it is killed.
func runChild(args []string) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("ready %s\n", listener.Addr())
	switch {
	case args[0] == childUpstream:
		return newUpstream().serve(listener)
	case args[0] == childProxy && len(args) == 2:
		return serveProxy(listener, args[1])
	}
	return fmt.Errorf("no such child: %v", args)
}

// serveProxy is the bare reverse proxy that Leasehold is compared with: what
// the standard library offers, with a Transport that keeps its connections and
// buffers that are used again.
func serveProxy(listener net.Listener, target string) error {
	to, err := url.Parse(target)
	if err != nil {
		return err
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport: &http.Transport{
			MaxIdleConnsPerHost: 1024,
			IdleConnTimeout:     time.Minute,
			DisableCompression:  true,
		},
		BufferPool: &buffers{},
		ErrorLog:   log.Default(),
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// Otherwise the server closes the request's body when the answer begins,
		// sometimes before the Transport has seen that nothing is left in it,
		// which then breaks off long answers.
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			log.Print(err)
		}
		proxy.ServeHTTP(w, r)
	})}
	return server.Serve(listener)
}

// buffers is a pool of copy buffers.
type buffers struct{ pool sync.Pool }

// bufferSize is the size of a copy buffer; the standard library's own default.
const bufferSize = 32 << 10

// Get returns a buffer.
func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, bufferSize)
}

// Put takes a buffer back.
func (b *buffers) Put(p []byte) { b.pool.Put(&p) }
