package crossing

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// echo serves a listener that sends every line back, and returns its address.
func echo(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				io.Copy(conn, conn)
			}()
		}
	}()
	return listener.Addr().String()
}

// say sends a line and returns what comes back.
func say(conn net.Conn, line string) (string, error) {
	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		return "", err
	}
	conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	got, err := bufio.NewReader(conn).ReadString('\n')
	return got, err
}

func TestOnlyTheWayThatIsCutIsSilent(t *testing.T) {
	names := make(chan string, 3)
	c, err := New(echo(t), func(net.Conn) string { return <-names })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	dial := func(name string) net.Conn {
		t.Helper()
		names <- name
		conn, err := net.Dial("tcp", c.Address())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	heard := func(when string, conn net.Conn) {
		t.Helper()
		if got, err := say(conn, when); err != nil || got != when+"\n" {
			t.Errorf("%s: heard %q, %v", when, got, err)
		}
	}
	silent := func(when string, conn net.Conn) {
		t.Helper()
		if got, err := say(conn, when); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: heard %q, %v; want nothing", when, got, err)
		}
	}
	a, b := dial("a"), dial("b")
	heard("before", a)
	heard("before", b)
	c.Cut("a")
	silent("cut", a)
	silent("connected while cut", dial("a"))
	heard("not cut", b)
	c.Heal()
	if got, err := say(a, "healed"); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection that was cut: heard %q, %v; want that it breaks", got, err)
	}
	heard("not cut", b)
	heard("connected anew", dial("a"))
}
