// Package crash leaves what the Go runtime says when a process crashes to the
// process that is started after it.
package crash

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime/debug"
)

// maxText bounds what is read of a crash, in bytes: why, and the beginning of the stacks.
const maxText = 16 << 10

// Keep has the runtime write to the file at path, beside standard error, when this process
// crashes: a panic that nobody recovers, or an error that the runtime does not go on
// after. It returns what the process wrote there that kept its crash there before;
// nothing if that one ended in another way. A signal from outside is not a crash.
func Keep(path string) (before string, err error) {
	if before, err = read(path); err != nil {
		return "", err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return "", err
	}
	defer file.Close() // the runtime has a descriptor of its own
	if err := debug.SetCrashOutput(file, debug.CrashOptions{}); err != nil {
		return "", fmt.Errorf("crash output to %s: %w", path, err)
	}
	return before, nil
}

func read(path string) (string, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxText))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	if bytes.HasPrefix(text, []byte("SIG")) { // somebody wanted to see the stacks
		return "", nil
	}
	return string(text), nil
}
