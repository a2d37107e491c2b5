//go:build !linux

package stdio

import (
	"os/exec"
	"syscall"
)

const canLimit = false

func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func limit(int, int64) error { return nil }

// awaitExit reaps the child: this system does not let it be awaited only.
func awaitExit(child *exec.Cmd) { _ = child.Wait() }
