package dataplane_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// BenchmarkCall measures one tools/call directly, through a bare reverse proxy,
// through the owner, through a worker that forwards, and through an owner whose gateway
// has ten upstreams; all in one process, for profiles. `make bench` compares processes.
func BenchmarkCall(b *testing.B) {
	p, u := startPlane(b), startUpstream(b)
	p.setGateway("g", u.URL, nil)
	u.setHook(func(w http.ResponseWriter, _ *http.Request, method string) bool {
		if method != "tools/call" {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"1"}]}}`)
		return true
	})
	target, _ := url.Parse(u.URL)
	proxy := &http.Server{Handler: &httputil.ReverseProxy{
		Transport: &http.Transport{MaxIdleConnsPerHost: 256},
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
	}}
	l, _ := net.Listen("tcp", "127.0.0.1:0")
	go proxy.Serve(l)
	b.Cleanup(func() { proxy.Close() })
	owner, other := startWorker(b, p), startWorker(b, p)
	c := newClient(b, "g")
	c.initialize(owner)
	for _, path := range []struct {
		name, url, tool string
		client          *client
	}{
		{"direct", u.URL, "counter", c}, {"proxy", "http://" + l.Addr().String(), "counter", c}, {"owner", owner.url, "counter", c}, {"forward", other.url, "counter", c},
		{"merged", owner.url, "u7_counter", tenUpstreams(b, p, owner)},
	} {
		b.Run(path.name, func(b *testing.B) {
			b.SetParallelism(8)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) { callInLoop(b, pb, path.url, path.tool, path.client) })
		})
	}
}

// tenUpstreams opens a session of a gateway that has ten.
func tenUpstreams(b *testing.B, p *plane, w *worker) *client {
	u := startUpstream(b)
	u.setHook(func(rw http.ResponseWriter, _ *http.Request, method string) bool {
		rw.Header().Set("Content-Type", "application/json")
		switch method {
		case "initialize":
			rw.Header().Set("Mcp-Session-Id", "s")
			io.WriteString(rw, `{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{"listChanged":true}},"serverInfo":{"name":"u","version":"1"}}}`)
		case "tools/list":
			io.WriteString(rw, `{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"counter","inputSchema":{"type":"object"}}]}}`)
		case "tools/call":
			io.WriteString(rw, `{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"1"}]}}`)
		default:
			rw.WriteHeader(http.StatusAccepted)
		}
		return true
	})
	var upstreams []*leaseholdv1.Upstream
	for i := range 10 {
		upstreams = append(upstreams, &leaseholdv1.Upstream{Name: fmt.Sprintf("u%d", i), Url: u.URL})
	}
	p.setGatewayOf("ten", upstreams...)
	c := newClient(b, "ten")
	eventually(b, "the worker has the gateway", func() bool {
		resp, _ := c.do(w, http.MethodPost, initialize)
		c.session = resp.Header.Get("Mcp-Session-Id")
		return c.session != ""
	})
	return c
}

// callers numbers the callers: two requests in flight cannot have the same id.
var callers atomic.Int64

func callInLoop(b *testing.B, pb *testing.PB, target, tool string, c *client) {
	address := strings.TrimPrefix(target, "http://")
	conn, err := net.Dial("tcp", address)
	if err != nil {
		b.Error(err)
		return
	}
	defer conn.Close()
	body := `{"jsonrpc":"2.0","id":` + fmt.Sprint(callers.Add(1)) + `,"method":"tools/call","params":{"name":"` + tool + `","arguments":{}}}`
	request := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n"+
		"Mcp-Session-Id: %s\r\nMcp-Protocol-Version: 2025-11-25\r\nContent-Length: %d\r\n\r\n%s", c.path, address, c.session, len(body), body)
	reader := bufio.NewReader(conn)
	for pb.Next() {
		io.WriteString(conn, request)
		resp, err := http.ReadResponse(reader, nil)
		if err != nil || resp.StatusCode != http.StatusOK {
			b.Errorf("call: %v %v", resp, err)
			return
		}
		io.Copy(io.Discard, resp.Body)
	}
}
