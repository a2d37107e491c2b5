package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/genproto/googleapis/rpc/code"
)

// ErrUnavailable says that the log cannot be written, so that nothing may be changed.
// Of a call that was under way when that began it does not say whether it was carried
// out.
var ErrUnavailable = errors.New("the audit log cannot be written; this replica changes nothing until it can")

// Stderr is the path that means standard error.
const Stderr = "-"

const (
	// retryEvery is how often it is tried again whether the log can be written.
	retryEvery = time.Second
	// refusedPerSecond bounds the lines about calls that were not allowed, after
	// refusedAtOnce: whoever may do nothing does not fill the log either.
	refusedPerSecond = 1
	refusedAtOnce    = 100
)

// Log is the audit log. It is safe for concurrent use.
type Log struct {
	path   string
	health func(error)
	pace   *rate.Limiter // of lines about calls that were not allowed

	mu      sync.Mutex
	out     io.Writer // guarded by mu
	file    *file     // guarded by mu; out, or nil
	pending []byte    // guarded by mu; lines, or the rest of one, that could not be written
	err     error     // guarded by mu; why not
	omitted int       // guarded by mu; calls that have no line
}

// Open returns the log in the file at path, or Stderr. It fails if that cannot be
// written. health is told when the log can no longer be written, and why, and with nil
// when it can again; it must not call the log. Close closes it.
func Open(path string, health func(error)) (*Log, error) {
	l := &Log{path: path, health: health, pace: rate.NewLimiter(refusedPerSecond, refusedAtOnce)}
	if path == Stderr {
		l.out = os.Stderr
		return l, nil
	}
	l.file = &file{path: path, long: maxFile}
	l.out = l.file
	if err := l.file.ready(); err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	return l, nil
}

// Close closes the log.
func (l *Log) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		l.file.close()
	}
}

// Ready returns ErrUnavailable if something could not be written, and still cannot. A
// call that changes something asks before it begins.
func (l *Log) Ready() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		return nil
	}
	return l.flush()
}

// Write writes an entry. If it fails, with ErrUnavailable, the entry is kept and
// written before any other; those are the calls that were under way when the log failed,
// as none begins after that.
func (l *Log) Write(e *Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Code == code.Code_PERMISSION_DENIED.String() && !l.pace.Allow() {
		l.omitted++
		return nil
	}
	e.Omitted, l.omitted = l.omitted, 0
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	l.pending = append(append(l.pending, line...), '\n')
	return l.flush()
}

// flush writes what is pending. mu is held: lines do not mix, and calls that change
// something may wait for each other's lines.
func (l *Log) flush() error {
	n, err := l.out.Write(l.pending)
	if l.pending = l.pending[n:]; len(l.pending) == 0 {
		l.pending = nil
	}
	if (err == nil) != (l.err == nil) {
		l.health(failure(err))
	}
	l.err = err
	return failure(err)
}

// failure says what err means for the replica.
func failure(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

// Run tries again to write what could not be written, until ctx ends.
func (l *Log) Run(ctx context.Context) {
	ticker := time.NewTicker(retryEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			_ = l.Ready() // health was told already
		}
	}
}
