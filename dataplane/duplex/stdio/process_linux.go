package stdio

import (
	"fmt"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// canLimit says that limit works.
const canLimit = true

// attributes make a process lead a group of its own, and die with the thread that
// started it.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// limit bounds the memory that a process and each that it starts may write to. What
// is merely reserved does not count: some runtimes reserve far more than they use.
func limit(pid int, bytes int64) error {
	if bytes == 0 {
		return nil
	}
	bound := unix.Rlimit{Cur: uint64(bytes), Max: uint64(bytes)}
	if err := unix.Prlimit(pid, unix.RLIMIT_DATA, &bound, nil); err != nil {
		return fmt.Errorf("bound the program's memory: %w", err)
	}
	return nil
}

// awaitExit returns when a child has exited, and leaves it to be reaped: until
// then nobody else has its number.
func awaitExit(child *exec.Cmd) {
	for unix.Waitid(unix.P_PID, child.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
}
