package cluster

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// The ports that FreePort hands out lie below those that the kernel gives to
// outgoing connections and to listeners on port 0, so that no other test is
// given one between now and the moment a child process listens on it.
const (
	firstPort = 14000
	lastPort  = 31999
)

// handedOut are the ports that are taken.
var handedOut struct {
	mu    sync.Mutex // guards ports
	ports map[int]bool
}

// FreePort returns a loopback port that nobody listens on, a new one each time.
func FreePort() (int, error) { return FreePorts(1) }

// FreePorts returns the first of n adjacent ports that nobody listens on.
func FreePorts(n int) (int, error) {
	handedOut.mu.Lock()
	defer handedOut.mu.Unlock()
	if handedOut.ports == nil {
		handedOut.ports = map[int]bool{}
	}
	for range 1000 {
		first := firstPort + rand.IntN(lastPort-firstPort-n)
		if !allFree(first, n) {
			continue
		}
		for port := first; port < first+n; port++ {
			handedOut.ports[port] = true
		}
		return first, nil
	}
	return 0, errors.New("no free ports")
}

// allFree reports whether n ports from first are neither handed out nor in use.
func allFree(first, n int) bool {
	for port := first; port < first+n; port++ {
		if handedOut.ports[port] {
			return false
		}
		listener, err := net.Listen("tcp", loopback(port))
		if err != nil {
			return false
		}
		listener.Close()
	}
	return true
}

// loopback is a port's address.
func loopback(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// freeAddress returns the address of a free port.
func freeAddress() (string, error) {
	port, err := FreePort()
	return loopback(port), err
}
