package upstream

import (
	"syscall"
)

// alive reports whether an idle connection is still open, as far as this side
// knows: an upstream that closed it has said so, and one that sent something
// without being asked has lost track. It costs one system call, and spares a
// request from being written to nobody.
func (cn *conn) alive() bool {
	sys, ok := cn.raw.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := sys.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = raw.Read(func(fd uintptr) bool {
		var one [1]byte
		_, _, errno := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		quiet = errno == syscall.EAGAIN
		return true
	})
	return err == nil && quiet
}
