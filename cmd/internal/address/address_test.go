package address

import (
	"net"
	"strings"
	"testing"
)

func TestOnlyLoopbackIsLoopback(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1:80": true, "127.8.9.1:0": true, "[::1]:80": true, "localhost:80": true, "LOCALHOST:80": true,
		"[::ffff:127.0.0.1]:80": true,
		":80":                   false, "0.0.0.0:80": false, "[::]:80": false, "10.0.0.1:80": false, "example.com:80": false,
		"127.0.0.1.example.com:80": false, "localhost.example.com:80": false, "127.0.0.1": false, "": false,
	} {
		if got := Loopback(addr); got != want {
			t.Errorf("Loopback(%q): got %v, want %v", addr, got, want)
		}
	}
	for raw, want := range map[string]bool{
		"http://127.0.0.1:2379": true, "http://[::1]:2379": true, "http://localhost:2379": true,
		"http://etcd:2379": false, "http://127.0.0.1@evil:2379": false, "127.0.0.1:2379": false,
	} {
		if got := LoopbackURL(raw); got != want {
			t.Errorf("LoopbackURL(%q): got %v, want %v", raw, got, want)
		}
	}
}

func TestErrorsSayHowToWriteIt(t *testing.T) {
	for addr, want := range map[string]string{
		"127.0.0.1":             "write 127.0.0.1:PORT",
		"::1":                   "write [::1]:PORT",
		"http://127.0.0.1:7070": "leave out the scheme",
		"127.0.0.1:http":        "no port between",
		"127.0.0.1:70000":       "no port between",
	} {
		if err := Check(addr); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Check(%q): got %v, want %q", addr, err, want)
		}
	}
	for addr, want := range map[string]string{":7070": "no host", "127.0.0.1:0": "port 0"} {
		if err := CheckDial(addr); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("CheckDial(%q): got %v, want %q", addr, err, want)
		}
	}
	for raw, want := range map[string]string{
		"127.0.0.1:2379": "not a URL", "ftp://127.0.0.1": "scheme", "http://127.0.0.1:2379/x": "host and a port only",
	} {
		if err := CheckURL(raw); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("CheckURL(%q): got %v, want %q", raw, err, want)
		}
	}
}

func TestOffsetKeepsFreePortsFree(t *testing.T) {
	for _, c := range []struct {
		addr string
		n    int
		want string
	}{{"127.0.0.1:8080", 2, "127.0.0.1:8082"}, {"[::1]:8080", 1, "[::1]:8081"}, {"127.0.0.1:0", 3, "127.0.0.1:0"}} {
		if got, err := Offset(c.addr, c.n); err != nil || got != c.want {
			t.Errorf("Offset(%q, %d): got %q, %v, want %q", c.addr, c.n, got, err, c.want)
		}
	}
	if _, err := Offset("127.0.0.1:65535", 1); err == nil {
		t.Error("Offset past the last port: got no error")
	}
}

func TestListenSaysThatAPortIsInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, err = Listen(taken.Addr().String(), "peer-listen")
	if err == nil || !strings.Contains(err.Error(), "in use") || !strings.Contains(err.Error(), "--peer-listen") {
		t.Errorf("got %v, want an error that says in use and --peer-listen", err)
	}
}
