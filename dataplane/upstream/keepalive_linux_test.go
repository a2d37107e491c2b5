package upstream

import (
	"net"
	"net/http"
	"net/url"
	"syscall"
	"testing"

	"github.com/leasehold/leasehold/dataplane/session"
)

// An upstream whose machine is gone says nothing: only keep-alive probes tell, and
// within 15 s (5 and 3 times 3) only if these are set.
func TestConnectionsProbeWhetherTheOtherEndIsThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusAccepted) })}
	go server.Serve(l)
	defer server.Close()
	c := newTestClient(t)
	resp, err := c.Do(t.Context(), &session.Dispatch{Upstream: at(&url.URL{Scheme: "http", Host: l.Addr().String()}), Method: http.MethodPost})
	if err != nil {
		t.Fatal(err)
	}
	raw, err := resp.Body.(*answer).conn.raw.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for _, option := range []struct {
		name         string
		level, which int
		want         int
	}{
		{"SO_KEEPALIVE", syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1},
		{"TCP_KEEPIDLE", syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, 5},
		{"TCP_KEEPINTVL", syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, 3},
		{"TCP_KEEPCNT", syscall.IPPROTO_TCP, syscall.TCP_KEEPCNT, 3},
	} {
		raw.Control(func(fd uintptr) {
			got, err := syscall.GetsockoptInt(int(fd), option.level, option.which)
			if err != nil || got != option.want {
				t.Errorf("%s: got %d, %v, want %d", option.name, got, err, option.want)
			}
		})
	}
	resp.Body.Close()
}
