// Package address checks network addresses before they are used: whether they
// are well formed, and whether they stay on this machine.
package address

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
)

// Check says what is wrong with a host:port, or returns nil.
func Check(addr string) error {
	_, _, err := split(addr)
	return err
}

// CheckDial is Check for an address to connect to, which needs a host and a port.
func CheckDial(addr string) error {
	host, port, err := split(addr)
	switch {
	case err != nil:
		return err
	case host == "":
		return fmt.Errorf("%q has no host; write host:port, such as 127.0.0.1:7070", addr)
	case port == 0:
		return fmt.Errorf("%q has port 0, which only a listener can have", addr)
	}
	return nil
}

// Loopback reports whether the host of addr is this machine's loopback: an
// address of 127.0.0.0/8, ::1, or the name localhost. Other names are not, even
// when they resolve to such an address: what a name means can change.
func Loopback(addr string) bool {
	host, _, err := split(addr)
	return err == nil && loopbackHost(host)
}

// LoopbackURL is Loopback for the host of a URL.
func LoopbackURL(raw string) bool {
	u, err := url.Parse(raw)
	return err == nil && loopbackHost(u.Hostname())
}

// CheckURL says what is wrong with the URL of an etcd endpoint, or returns nil.
func CheckURL(raw string) error {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme == "" || u.Host == "" {
		return fmt.Errorf("%q is not a URL; write one such as http://127.0.0.1:2379", raw)
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("%q has the scheme %q; only http and https are known", raw, u.Scheme)
	}
	if u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.User != nil {
		return fmt.Errorf("%q must have a host and a port only", raw)
	}
	return nil
}

// Offset returns addr with its port raised by n; port 0 stays 0.
func Offset(addr string, n int) (string, error) {
	host, port, err := split(addr)
	if err != nil {
		return "", err
	}
	if port == 0 {
		return addr, nil
	}
	if port+n > 65535 {
		return "", fmt.Errorf("port %d is above 65535", port+n)
	}
	return net.JoinHostPort(host, strconv.Itoa(port+n)), nil
}

// Listen listens on addr. flag is the flag that addr came from; the error names
// it and says what can be done.
func Listen(addr, flag string) (net.Listener, error) {
	listener, err := net.Listen("tcp", addr)
	switch {
	case err == nil:
		return listener, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s is in use by another program; choose another address with --%s (port 0 takes a free one)", addr, flag)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("this user may not listen on %s; choose a port above 1023 with --%s", addr, flag)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s is not an address of this machine; choose another with --%s", addr, flag)
	}
	return nil, fmt.Errorf("listen for --%s: %w", flag, err)
}

func loopbackHost(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

func split(addr string) (host string, port int, err error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not host:port%s", addr, hint(addr))
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("%q has no port between 0 and 65535", addr)
	}
	return host, int(n), nil
}

// hint says how addr is to be written, where that can be guessed.
func hint(addr string) string {
	if strings.Contains(addr, "://") {
		return "; leave out the scheme and the path"
	}
	if ip, err := netip.ParseAddr(strings.Trim(addr, "[]")); err == nil && ip.Is6() {
		return fmt.Sprintf("; write [%s]:PORT", ip)
	}
	if !strings.Contains(addr, ":") && addr != "" {
		return fmt.Sprintf("; write %s:PORT", addr)
	}
	return ""
}
