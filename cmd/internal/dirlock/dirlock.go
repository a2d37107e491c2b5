// Package dirlock keeps two processes from using one data directory.
package dirlock

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// name of the lock file in the directory.
const name = "leasehold.lock"

// errHeld says that another process has the lock.
var errHeld = errors.New("held")

// Lock is a directory that this process has for itself.
type Lock struct{ file *os.File }

// Acquire makes dir, if it is not there, and locks it. It fails at once when
// another process has it. The lock ends with the process at the latest, however
// that ends.
func Acquire(dir string) (*Lock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	path := filepath.Join(dir, name)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock of the data directory: %w", err)
	}
	if err := lock(file); err != nil {
		defer file.Close()
		if !errors.Is(err, errHeld) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		return nil, fmt.Errorf("data directory %s is in use by another leasehold%s; stop that one or choose another with --data-dir", dir, holder(path))
	}
	// Who has the lock is for the message above only: that it cannot be
	// written does not matter.
	_ = file.Truncate(0)
	_, _ = fmt.Fprintf(file, "%d\n", os.Getpid())
	return &Lock{file: file}, nil
}

// Release gives the directory back.
func (l *Lock) Release() { _ = l.file.Close() }

// holder returns " (process N)" for the process that has the lock, if it said.
func holder(path string) string {
	text, err := os.ReadFile(path)
	if pid := strings.TrimSpace(string(text)); err == nil && pid != "" {
		return " (process " + pid + ")"
	}
	return ""
}
