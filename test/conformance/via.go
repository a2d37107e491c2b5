package conformance

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"
)

// The environment by which the test's binary is told that it is the command that
// a suite runs as its client: it asks where the suite's server is to be reached,
// and then becomes the client.
const (
	doorEnv   = "LEASEHOLD_CONFORMANCE_DOOR"
	clientEnv = "LEASEHOLD_CONFORMANCE_CLIENT"
)

// viaCommand returns the command that runs a client by way of a door.
func viaCommand(door, client string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find the test's own binary: %w", err)
	}
	return fmt.Sprintf("env %s=%s %s=%s %s", doorEnv, door, clientEnv, client, self), nil
}

// becomeClient asks the door for the URL that stands for the suite's and becomes
// the client. It returns only if that fails.
func becomeClient(door, client, url string) error {
	transport := &http.Client{Timeout: time.Minute}
	resp, err := transport.Post(door, "text/plain", strings.NewReader(url))
	if err != nil {
		return fmt.Errorf("ask for a way to %s: %w", url, err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(string(answer))
	}
	if err != nil {
		return fmt.Errorf("ask for a way to %s: %w", url, err)
	}
	return syscall.Exec(client, []string{client, string(answer)}, os.Environ())
}

// startDoor serves what becomeClient asks: for the URL of a server, another one
// by which to reach it. The caller closes it.
func startDoor(way func(url string) (string, error)) (string, *http.Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, fmt.Errorf("start the door: %w", err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		url, err := io.ReadAll(r.Body)
		var answer string
		if err == nil {
			answer, err = way(string(url))
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		io.WriteString(w, answer)
	})}
	go server.Serve(listener)
	return "http://" + listener.Addr().String(), server, nil
}
