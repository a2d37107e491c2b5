package store

import (
	"errors"
	"fmt"
)

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
	// ErrTooManyPeers says that a worker would be recorded to know more than MaxPeers.
	ErrTooManyPeers = errors.New("too many workers to be known by one")
	// ErrTooManyKeys says that the key ring has no room for another key.
	ErrTooManyKeys = fmt.Errorf("the key ring has %d keys, as many as it may; another one can be made when the oldest is removed", MaxKeys)
	// ErrNoRing says that there is no key ring, which each replica sees to when it starts.
	ErrNoRing = errors.New("there is no key ring")
	// ErrCompacted says that the store no longer has the changes since a
	// revision.
	ErrCompacted = errors.New("changes since that revision are no longer kept; watch from the beginning")
	// ErrFutureRevision says that the store has not come to a revision yet, as
	// after it was restored from a backup.
	ErrFutureRevision = errors.New("revision is in the future; watch from the beginning")
)

// MaxEndings bounds the sessions that wait to be ended by an operator's wish:
// every worker is told all of them in one message of less than 1 MiB.
const MaxEndings = 8000

// MaxPeers bounds the workers that one is recorded to know: those that are alive, and
// those that may come back.
const MaxPeers = 2000

// MaxKeys bounds the keys of the ring, which every worker looks through.
const MaxKeys = 96
