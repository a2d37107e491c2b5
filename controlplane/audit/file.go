package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	fileMode fs.FileMode = 0o600
	// maxFile is how long the file gets before it is put aside.
	maxFile = 64 << 20
	// maxAside bounds the files that are put aside; the oldest is removed for a new one.
	maxAside = 15
	// asideTime is what is added to the name of a file that is put aside, so that their
	// names are in the order of their times.
	asideTime = "20060102T150405.000000000Z"
)

// file is a log in a file that only its owner may read. It goes on in a new file once
// it is long, or when somebody has moved the old one away. It is for one goroutine.
type file struct {
	path string
	long int64 // at which length it is put aside
	open *os.File
	size int64
}

// Write appends whole lines, at the end of the file whatever others do.
func (f *file) Write(lines []byte) (int, error) {
	if err := f.ready(); err != nil {
		return 0, err
	}
	n, err := f.open.Write(lines)
	f.size += int64(n)
	return n, err
}

// ready makes sure that the file at the path is the one that is open, and not long.
func (f *file) ready() error {
	if f.open != nil && !f.isAt() {
		f.close()
	}
	if f.open != nil && f.size >= f.long {
		if err := f.putAside(); err != nil {
			return err
		}
	}
	if f.open != nil {
		return nil
	}
	opened, err := os.OpenFile(f.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, fileMode)
	if err != nil {
		return err
	}
	info, err := opened.Stat()
	if err != nil {
		return errors.Join(err, opened.Close())
	}
	if err := usable(f.path, info.Mode()); err != nil {
		return errors.Join(err, opened.Close())
	}
	f.open, f.size = opened, info.Size()
	return nil
}

func usable(path string, mode fs.FileMode) error {
	switch {
	case !mode.IsRegular():
		return fmt.Errorf("%s is not a regular file", path)
	case mode.Perm()&0o077 != 0:
		return fmt.Errorf("%s has mode %04o: others may use it; chmod 600 %s", path, mode.Perm(), path)
	}
	return nil
}

func (f *file) isAt() bool {
	own, err := f.open.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(f.path)
	return err == nil && os.SameFile(own, there)
}

func (f *file) putAside() error {
	if err := os.Rename(f.path, f.path+"."+time.Now().UTC().Format(asideTime)); err != nil {
		return err
	}
	f.close()
	aside, err := f.aside()
	if err != nil {
		return err
	}
	for _, old := range aside[:max(0, len(aside)-maxAside)] {
		if err := os.Remove(old); err != nil {
			return err
		}
	}
	return nil
}

// aside returns the files that were put aside here, the oldest first.
func (f *file) aside() ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(f.path))
	if err != nil {
		return nil, err
	}
	prefix := filepath.Base(f.path) + "."
	var found []string
	for _, e := range entries {
		name := e.Name()
		if len(name) != len(prefix)+len(asideTime) || name[:len(prefix)] != prefix {
			continue
		}
		if _, err := time.Parse(asideTime, name[len(prefix):]); err == nil {
			found = append(found, filepath.Join(filepath.Dir(f.path), name))
		}
	}
	slices.Sort(found)
	return found, nil
}

func (f *file) close() {
	if f.open != nil {
		_ = f.open.Close() // what was written is with the system already
		f.open = nil
	}
}
