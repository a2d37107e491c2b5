package store

import "errors"

var (
	// ErrUnavailable says that the store did not answer. Whether a write was
	// done is not known: repeat it, or read.
	ErrUnavailable = errors.New("store unavailable")
	// ErrBusy says that too many writes wait already; nothing was sent.
	ErrBusy = errors.New("too many writes are waiting")
	// ErrFull says that the store has no space left; nothing was written.
	ErrFull = errors.New("store is full")
	// ErrTooManyEndings says that MaxEndings sessions wait to be ended already.
	ErrTooManyEndings = errors.New("too many sessions wait to be ended")
)

// MaxEndings bounds the sessions that wait to be ended by an operator's wish:
// every worker is told all of them in one message of less than 1 MiB.
const MaxEndings = 8000
