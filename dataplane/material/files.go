package material

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	// readAgain is for how long a file is taken to be as it was.
	readAgain = time.Second
	// maxFile bounds a file: authorities of a system have some 250 KB.
	maxFile = 1 << 20
	// maxFiles bounds the files that are remembered; any beyond is read each time.
	maxFiles = 4096
)

// errNoDir says that definitions may name no files.
var errNoDir = errors.New("this worker has no directory of credentials: start it with --credentials-dir")

// files reads files below a directory and remembers them for a second. A file that
// cannot be read any more stays as it was: a rotation may take it away for a moment.
// Contents are compared and not times, so that no rotation is missed. Safe for
// concurrent use.
type files struct {
	root   *os.Root // nil without a directory
	now    func() time.Time
	logger hclog.Logger

	mu    sync.Mutex // guards known
	known map[string]*file
}

// content is what a file had in it. It is another one whenever the file changes, and
// never changes itself.
type content struct{ data []byte }

// file is a file that was read.
type file struct {
	looked, used time.Time
	content      *content
	complaint    string // the last one that was logged
}

func newFiles(dir string, now func() time.Time, logger hclog.Logger) (*files, error) {
	f := &files{now: now, logger: logger, known: make(map[string]*file)}
	if dir == "" {
		return f, nil
	}
	var err error
	if f.root, err = os.OpenRoot(dir); err != nil {
		return nil, fmt.Errorf("directory of credentials: %w", err)
	}
	return f, nil
}

func (f *files) close() {
	if f.root != nil {
		f.root.Close()
	}
}

// read returns what a file has in it, as it was at most a moment ago.
func (f *files) read(path string) (*content, error) {
	if f.root == nil {
		return nil, errNoDir
	}
	now := f.now()
	f.mu.Lock()
	known := f.known[path]
	if known != nil {
		known.used = now
		if now.Sub(known.looked) < readAgain {
			defer f.mu.Unlock()
			return known.content, nil
		}
		known.looked = now // others go on with what was there
	}
	f.mu.Unlock()
	data, err := f.load(path)
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.noteLocked(path, now, data, err)
}

func (f *files) noteLocked(path string, now time.Time, data []byte, err error) (*content, error) {
	known := f.known[path]
	switch {
	case known == nil && err != nil:
		return nil, err
	case known == nil:
		known = &file{looked: now, used: now, content: &content{data}}
		if len(f.known) < maxFiles {
			f.known[path] = known
		}
	case err != nil:
		if complaint := err.Error(); complaint != known.complaint {
			f.logger.Warn("credential file cannot be read, what it had in it stays", "error", err)
			known.complaint = complaint
		}
	default:
		known.complaint = ""
		if !bytes.Equal(known.content.data, data) {
			known.content = &content{data}
			f.logger.Info("credential file changed", "file", path)
		}
	}
	return known.content, nil
}

func (f *files) load(path string) ([]byte, error) {
	opened, err := f.root.Open(path)
	if err != nil {
		return nil, fmt.Errorf("credential file: %w", err)
	}
	defer opened.Close()
	if info, err := opened.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("credential file %q: is not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(opened, maxFile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("credential file: %w", err)
	case len(data) == 0 || len(data) > maxFile:
		return nil, fmt.Errorf("credential file %q: has %d bytes or more, want 1 to %d", path, len(data), maxFile)
	}
	return data, nil
}

// sweep forgets what was not used since old.
func (f *files) sweep(old time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for path, known := range f.known {
		if known.used.Before(old) {
			delete(f.known, path)
		}
	}
}
