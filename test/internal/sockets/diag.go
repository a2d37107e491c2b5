package sockets

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// diagRequest asks the kernel for one TCP socket (struct inet_diag_req_v2 with
// its netlink header).
type diagRequest struct {
	header               unix.NlMsghdr
	family, protocol     uint8
	extensions, pad      uint8
	states               uint32
	sourcePort, destPort [2]byte // as on the wire
	source, dest         [16]byte
	device               uint32
	cookie               [2]uint32
}

// inodeAt is where struct inet_diag_msg has the inode, counted from the end of
// the netlink header.
const inodeAt = 4 + 48 + 4*4

// anyState asks for a socket in whatever state.
const anyState = ^uint32(0)

// inodeOf finds the inode of the socket that is bound to local and connected to
// remote. It asks the kernel for that one: its table of all of them takes long to
// read, and misses some while others come and go.
func inodeOf(local, remote netip.AddrPort) (string, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return "", fmt.Errorf("ask the kernel for a socket: %w", err)
	}
	defer unix.Close(fd)
	r := request(local, remote)
	raw := unsafe.Slice((*byte)(unsafe.Pointer(&r)), unsafe.Sizeof(r))
	if err := unix.Sendto(fd, raw, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return "", fmt.Errorf("ask the kernel for a socket: %w", err)
	}
	answer := make([]byte, 8<<10)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return "", fmt.Errorf("ask the kernel for a socket: %w", err)
	}
	inode, err := readInode(answer[:n])
	if err != nil {
		return "", fmt.Errorf("socket %s to %s: %w", local, remote, err)
	}
	return inode, nil
}

// request is the question for one socket.
func request(local, remote netip.AddrPort) diagRequest {
	r := diagRequest{family: unix.AF_INET, protocol: unix.IPPROTO_TCP, states: anyState}
	if local.Addr().Is6() {
		r.family = unix.AF_INET6
	}
	copy(r.source[:], local.Addr().AsSlice())
	copy(r.dest[:], remote.Addr().AsSlice())
	binary.BigEndian.PutUint16(r.sourcePort[:], local.Port())
	binary.BigEndian.PutUint16(r.destPort[:], remote.Port())
	r.cookie = [2]uint32{^uint32(0), ^uint32(0)} // whichever
	r.header = unix.NlMsghdr{
		Len: uint32(unsafe.Sizeof(r)), Type: unix.SOCK_DIAG_BY_FAMILY, Flags: unix.NLM_F_REQUEST,
	}
	return r
}

// errShort says that the kernel's answer is not as documented.
var errShort = errors.New("the kernel's answer is too short")

// readInode takes the inode out of the kernel's answer.
func readInode(answer []byte) (string, error) {
	if len(answer) < unix.SizeofNlMsghdr+4 {
		return "", errShort
	}
	body := answer[unix.SizeofNlMsghdr:]
	if binary.NativeEndian.Uint16(answer[4:]) == unix.NLMSG_ERROR {
		return "", fmt.Errorf("%w: %w", ErrUnknown, unix.Errno(-int32(binary.NativeEndian.Uint32(body))))
	}
	if len(body) < inodeAt+4 {
		return "", errShort
	}
	inode := binary.NativeEndian.Uint32(body[inodeAt:])
	if inode == 0 {
		return "", fmt.Errorf("no process has it: %w", ErrUnknown)
	}
	return strconv.FormatUint(uint64(inode), 10), nil
}
