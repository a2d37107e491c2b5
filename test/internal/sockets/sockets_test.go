package sockets

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"
)

// dialEnv tells the test binary to be the child that dials.
const dialEnv = "SOCKETS_TEST_DIAL"

func TestMain(m *testing.M) {
	if addr := os.Getenv(dialEnv); addr != "" {
		os.Exit(dial(addr))
	}
	os.Exit(m.Run())
}

// dial connects to addr and stays until the other end closes.
func dial(addr string) int {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return 1
	}
	conn.Read(make([]byte, 1))
	return 0
}

func TestPeerNamesTheProcessThatDialled(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var children []*exec.Cmd
	for range 3 {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), dialEnv+"="+listener.Addr().String())
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		conn, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer child.Wait()
		defer conn.Close()
		children = append(children, child)
		var pids []int
		for _, c := range children {
			pids = append(pids, c.Process.Pid)
		}
		pid, err := Peer(conn, append(pids, os.Getpid()))
		if err != nil || pid != child.Process.Pid {
			t.Errorf("Peer = %d, %v; want the child, %d", pid, err, child.Process.Pid)
		}
		if _, err := Peer(conn, []int{os.Getpid()}); !errors.Is(err, ErrUnknown) {
			t.Errorf("Peer among other processes: got %v, want ErrUnknown", err)
		}
	}
}

func TestConnectedUntilTheClientCloses(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	address := netip.MustParseAddrPort(listener.Addr().String())
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	accepted.Close() // the client's end waits to be closed
	if connected, err := Connected(address); !connected || err != nil {
		t.Errorf("before the client closed: connected is %v, %v", connected, err)
	}
	conn.Close()
	if connected, err := Connected(address); connected || err != nil {
		t.Errorf("after the client closed: connected is %v, %v", connected, err)
	}
}

func TestPeerIsUnknownOnceTheConnectionIsGone(t *testing.T) {
	local := netip.MustParseAddrPort("127.0.0.1:1")
	if pid, err := Holder(local, local, []int{os.Getpid()}); !errors.Is(err, ErrUnknown) {
		t.Errorf("Holder = %d, %v; want ErrUnknown", pid, err)
	}
}

func TestParseReadsTheKernelsAddresses(t *testing.T) {
	cases := map[string]string{
		"0100007F:1F90":                         "127.0.0.1:8080",
		"0000000000000000FFFF00000100007F:0016": "127.0.0.1:22",
		"00000000000000000000000001000000:0050": "[::1]:80",
	}
	for in, want := range cases {
		if got := parse(in).String(); got != want {
			t.Errorf("parse(%q) = %s, want %s", in, got, want)
		}
	}
	if got := parse("local_address"); got.IsValid() {
		t.Errorf("parse of the heading = %v, want the zero value", got)
	}
}
