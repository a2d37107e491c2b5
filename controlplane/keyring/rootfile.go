package keyring

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	rootKeyMode fs.FileMode = 0o600
	// maxRootFile bounds a file of root keys.
	maxRootFile = 64 << 10
	// lookEvery is how often a file of root keys is read.
	lookEvery = time.Second
)

// RootFile is the root keys of a file that is read again while it is used. Safe for
// concurrent use.
type RootFile struct {
	path    string
	log     hclog.Logger
	changed func() // is told that there are other keys
	keys    atomic.Pointer[RootKeys]
	content []byte // used by Run only
	told    string // the last complaint; used by Run only
}

// OpenRootFile reads root keys from a file that nobody but its owner may read: one a
// line, of which the first one wraps, and all of them unwrap.
func OpenRootFile(path string, log hclog.Logger) (*RootFile, error) {
	f := &RootFile{path: path, log: log, changed: func() {}}
	if _, err := f.look(); err != nil {
		return nil, err
	}
	return f, nil
}

// OpenOrMakeRootFile is OpenRootFile, but makes the file with a fresh key if it is not
// there. The file is complete and on disk before it has its name, so that a crash
// never leaves a broken key behind; of two that make it at once both get the same key.
func OpenOrMakeRootFile(path string, log hclog.Logger) (*RootFile, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if _, err := MakeRootFile(path); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	return OpenRootFile(path, log)
}

// Keys are the keys that the file had when it was read last. One that cannot be read
// leaves them as they were.
func (f *RootFile) Keys() RootKeys { return *f.keys.Load() }

// Seal is RootKeys.Seal.
func (f *RootFile) Seal(name string, ring *leaseholdv1.KeyRing) ([]byte, error) {
	return f.Keys().Seal(name, ring)
}

// Open is RootKeys.Open.
func (f *RootFile) Open(name string, sealed []byte) (*leaseholdv1.KeyRing, error) {
	return f.Keys().Open(name, sealed)
}

// OnChange has f told when the file has other keys. It is called before Run.
func (f *RootFile) OnChange(changed func()) { f.changed = changed }

// Run reads the file again until ctx ends.
func (f *RootFile) Run(ctx context.Context) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		f.refresh()
	}
}

func (f *RootFile) refresh() {
	other, err := f.look()
	switch {
	case err != nil && err.Error() != f.told:
		f.told = err.Error()
		f.log.Warn("root keys cannot be read again, those that were read stay", "error", err)
	case err == nil:
		f.told = ""
	}
	if other {
		f.log.Info("root keys changed", "wraps", f.Keys().First(), "known", strings.Join(f.Keys().IDs(), " "))
		f.changed()
	}
}

// look reads the file, and reports whether it has other keys than before. Contents are
// compared and not times, so that no change is missed.
func (f *RootFile) look() (other bool, err error) {
	content, err := readRootFile(f.path)
	if err != nil || bytes.Equal(content, f.content) {
		return false, err
	}
	keys, err := ParseRootKeys(content)
	if err != nil {
		return false, fmt.Errorf("root key file %s %w", f.path, err)
	}
	f.content = content
	f.keys.Store(&keys)
	return true, nil
}

func readRootFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("root key file %s does not exist; make one with: leasehold keys generate %s: %w", path, path, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("root key: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("root key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, fmt.Errorf("root key file %s has mode %04o: others may use it; chmod 600 %s", path, mode, path)
	}
	content, err := io.ReadAll(io.LimitReader(file, maxRootFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("root key: %w", err)
	case len(content) > maxRootFile:
		return nil, fmt.Errorf("root key file %s is larger than %d KiB", path, maxRootFile>>10)
	}
	return content, nil
}

// MakeRootFile makes a file with a fresh root key, and returns the key's id. It returns
// fs.ErrExist if there is one.
func MakeRootFile(path string) (id string, err error) {
	key := NewRootKey()
	if err := place(path, key.Reveal()+"\n", nil, os.Link); err != nil {
		return "", fmt.Errorf("make root key file: %w", err)
	}
	return key.ID(), nil
}

// PrependRootKey puts a fresh root key before those in a file, and returns the ids of
// all of them. The file is the old one or the new one, whenever it is read, and stays
// its owner's.
func PrependRootKey(path string) (ids []string, err error) {
	content, err := readRootFile(path)
	if err != nil {
		return nil, err
	}
	key := NewRootKey()
	content = append([]byte(key.Reveal()+"\n"), content...)
	keys, err := ParseRootKeys(content)
	if err != nil {
		return nil, fmt.Errorf("root key file %s would be wrong with another key before: %w", path, err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("prepend root key: %w", err)
	}
	if err := place(path, string(content), info, os.Rename); err != nil {
		return nil, fmt.Errorf("prepend root key: %w", err)
	}
	return keys.IDs(), nil
}

// place writes a file beside path, to disk, and has it take the name; like says whose
// it is, if it is not the caller's.
func place(path, content string, like fs.FileInfo, take func(from, to string) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".root-key-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if like != nil {
		if owner, ok := like.Sys().(*syscall.Stat_t); ok && int(owner.Uid) != os.Geteuid() {
			err = f.Chown(int(owner.Uid), int(owner.Gid))
		}
	}
	_, written := f.WriteString(content)
	if err := errors.Join(err, written, f.Chmod(rootKeyMode), f.Sync(), f.Close()); err != nil {
		return err
	}
	return take(f.Name(), path)
}
