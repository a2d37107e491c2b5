package certs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/hashicorp/go-hclog"
)

// maxSize bounds a file; a certificate with its chain has a few kilobytes.
const maxSize = 1 << 20

// files are used together and read again while they are. Their contents are
// compared and not their times: a mount that swaps files, or two writes within
// one tick of the file system's clock, are not missed. Not safe for concurrent
// use.
type files struct {
	list      []file
	use       func(data [][]byte) error // takes all of them or none
	complaint string                    // the log's phrase for files that cannot be used
	logger    hclog.Logger
	data      [][]byte // what is in use
	told      string   // the last complaint
}

// file is one of them, and what it is called in errors.
type file struct{ path, what string }

// load reads and uses the files for the first time.
func (f *files) load() error {
	_, err := f.refresh()
	return err
}

// look reads the files once and reports whether what is new in them is used now.
// A complaint is logged, but not repeated.
func (f *files) look() (changed bool) {
	changed, err := f.refresh()
	complaint := ""
	if err != nil {
		complaint = err.Error()
	}
	if complaint != "" && complaint != f.told {
		f.logger.Warn(f.complaint, "error", err)
	}
	f.told = complaint
	return changed
}

// refresh uses what is in the files now, if it is new and can be used.
func (f *files) refresh() (changed bool, err error) {
	data := make([][]byte, len(f.list))
	same := len(f.data) == len(f.list)
	for i, one := range f.list {
		if data[i], err = readFile(one.path); err != nil {
			return false, fmt.Errorf("read %s: %w", one.what, err)
		}
		same = same && bytes.Equal(data[i], f.data[i])
	}
	if same {
		return false, nil
	}
	if err := f.use(data); err != nil {
		return false, err
	}
	f.data = data
	return true, nil
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > maxSize:
		return nil, fmt.Errorf("%s is larger than 1 MiB", path)
	case len(data) == 0:
		return nil, errors.New(path + " is empty")
	}
	return data, nil
}
