package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

// links are the proxies between parts of a world.
type links struct {
	server *toxiproxy.ApiServer
	port   func() (int, error) // returns a port that nobody listens on

	mu   sync.Mutex // guards what follows
	list map[string]*link
}

// link is a proxy that all connections from one part to another go through.
type link struct {
	*toxiproxy.Proxy
}

func newLinks() *links {
	return &links{
		server: toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop()),
		port:   cluster.FreePort,
		list:   map[string]*link{},
	}
}

// portTries is how many ports are tried for a proxy. One that was free a moment ago
// may not be: a process that is started just as it is looked at holds on to it until
// it runs its program.
const portTries = 10

// add puts a proxy in front of an address and returns the proxy's.
func (l *links) add(from, to, address string) (string, error) {
	p, err := l.start(from+"-"+to, address)
	for try := 1; try < portTries && errors.Is(err, syscall.EADDRINUSE); try++ {
		p, err = l.start(from+"-"+to, address)
	}
	if err != nil {
		return "", fmt.Errorf("proxy from %s to %s: %w", from, to, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list[from+" "+to] = &link{p}
	return p.Listen, nil
}

// start starts a proxy in front of an address.
func (l *links) start(name, address string) (*toxiproxy.Proxy, error) {
	port, err := l.port()
	if err != nil {
		return nil, err
	}
	p := toxiproxy.NewProxy(l.server, name, fmt.Sprintf("127.0.0.1:%d", port), address)
	return p, p.Start()
}

func TestLinkTakesAnotherPortIfOneIsInUseAfterAll(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	l := newLinks()
	defer l.close()
	asked, free := 0, portTries
	l.port = func() (int, error) {
		if asked++; asked >= free {
			return cluster.FreePort()
		}
		return taken.Addr().(*net.TCPAddr).Port, nil
	}
	at, err := l.add("a", "b", "127.0.0.1:1")
	if err != nil || asked != portTries {
		t.Fatalf("got %v after %d ports, want a proxy at the %dth", err, asked, portTries)
	}
	conn, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	asked, free = 0, 1000
	if _, err := l.add("a", "c", "127.0.0.1:1"); !errors.Is(err, syscall.EADDRINUSE) || asked != portTries {
		t.Errorf("got %v after %d ports, want %v after %d", err, asked, syscall.EADDRINUSE, portTries)
	}
}

// of is the link from one part to another.
func (l *links) of(t *testing.T, from, to string) *link {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	found := l.list[from+" "+to]
	if found == nil {
		t.Fatalf("there is no link from %s to %s", from, to)
	}
	return found
}

// close ends all proxies.
func (l *links) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, each := range l.list {
		each.Stop()
	}
}

// The directions of a link, as toxiproxy calls them.
var directions = []string{"upstream", "downstream"}

// stall makes a link swallow everything: what is connected stays so and hears
// nothing, and who connects anew is accepted and hears nothing either.
func (l *link) stall(t *testing.T) {
	t.Helper()
	for _, direction := range directions {
		toxic := fmt.Sprintf(`{"name":"stall-%s","type":"timeout","stream":%q,"attributes":{"timeout":0}}`, direction, direction)
		if _, err := l.Toxics.AddToxicJson(strings.NewReader(toxic)); err != nil {
			t.Fatal(err)
		}
	}
}

// flow ends a stall. The connections that were stalled break: what they lost does
// not come back.
func (l *link) flow(t *testing.T) {
	t.Helper()
	for _, direction := range directions {
		if err := l.Toxics.RemoveToxic(context.Background(), "stall-"+direction); err != nil {
			t.Fatal(err)
		}
	}
}

// refuse breaks all connections of a link and has new ones refused.
func (l *link) refuse() { l.Stop() }

// accept ends a refusal, or a black hole that has been closed.
func (l *link) accept(t *testing.T) {
	t.Helper()
	if err := l.Start(); err != nil {
		t.Fatal(err)
	}
}

// blackhole makes attempts to connect to a free address hang, as a network does
// that drops them: it listens, accepts nobody, and has its queue full.
func blackhole(t *testing.T, address string) (closer func()) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.ResolveTCPAddr("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	at := &syscall.SockaddrInet4{Port: tcp.Port, Addr: [4]byte(tcp.IP.To4())}
	err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
	if err == nil {
		err = syscall.Bind(fd, at)
	}
	if err == nil {
		err = syscall.Listen(fd, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	var queued []net.Conn
	for {
		conn, err := net.DialTimeout("tcp", address, 200*time.Millisecond)
		if err != nil {
			break // the queue is full
		}
		queued = append(queued, conn)
	}
	return func() {
		for _, conn := range queued {
			conn.Close()
		}
		syscall.Close(fd)
	}
}
