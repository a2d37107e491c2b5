// Package sockets says which process holds the other end of a loopback TCP
// connection. It asks the kernel and reads /proc, and so works on Linux only, for
// processes that the caller may inspect.
package sockets

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ErrUnknown means that no process of those asked about holds the socket.
var ErrUnknown = errors.New("no process holds the socket")

// Peer returns the id of the process, one of pids, that holds the other end of
// conn. Ask while the connection is open: afterwards nobody can tell.
func Peer(conn net.Conn, pids []int) (int, error) {
	local, err := addrPort(conn.LocalAddr())
	if err != nil {
		return 0, err
	}
	remote, err := addrPort(conn.RemoteAddr())
	if err != nil {
		return 0, err
	}
	return Holder(remote, local, pids)
}

// Holder returns the id of the process, one of pids, that holds the TCP socket
// which is bound to local and connected to remote.
func Holder(local, remote netip.AddrPort, pids []int) (int, error) {
	inode, err := inodeOf(local, remote)
	if err != nil {
		return 0, err
	}
	want := "socket:[" + inode + "]"
	for _, pid := range pids {
		if holds(pid, want) {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("socket %s to %s, inode %s: %w", local, remote, inode, ErrUnknown)
}

// The states of a socket, as the kernel numbers them, in which its process has
// not closed it.
const (
	stateEstablished = "01"
	stateCloseWait   = "08"
)

// Connected reports whether any process still has a socket open that is
// connected to a listener's address, though the other end may be closed.
func Connected(listener netip.AddrPort) (bool, error) {
	found := false
	err := eachSocket(func(fields []string) bool {
		open := fields[3] == stateEstablished || fields[3] == stateCloseWait
		found = open && parse(fields[2]) == listener
		return !found
	})
	return found, err
}

// addrPort turns a TCP address into a comparable one.
func addrPort(a net.Addr) (netip.AddrPort, error) {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("address %v is not TCP", a)
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
}

// eachSocket calls f with the fields of every line of the kernel's tables until
// f returns false: 1 is the local address, 2 the remote one, 3 the state.
func eachSocket(f func(fields []string) bool) error {
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		data, err := os.ReadFile(table)
		if os.IsNotExist(err) && table == "/proc/net/tcp6" {
			continue
		}
		if err != nil {
			return fmt.Errorf("read socket table: %w", err)
		}
		for line := range strings.Lines(string(data)) {
			if fields := strings.Fields(line); len(fields) > 9 && !f(fields) {
				return nil
			}
		}
	}
	return nil
}

// parse reads an address as the kernel prints it: the address as 32-bit words
// in the machine's byte order, a colon and the port, all hexadecimal. It
// returns the zero value for anything else, the table's heading included.
func parse(s string) netip.AddrPort {
	host, port, ok := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	if !ok || err != nil {
		return netip.AddrPort{}
	}
	for i := 0; i+4 <= len(raw); i += 4 {
		binary.BigEndian.PutUint32(raw[i:], binary.NativeEndian.Uint32(raw[i:]))
	}
	addr, ok := netip.AddrFromSlice(raw)
	n, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(n))
}

// holds reports whether process pid has link among its open files.
func holds(pid int, link string) bool {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		if got, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && got == link {
			return true
		}
	}
	return false
}
