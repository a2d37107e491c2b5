package session

import "errors"

var (
	// ErrNotFound says that there is no record of the session.
	ErrNotFound = errors.New("no such session")
	// ErrHeld says that the session has a record already, of another owner or
	// with other content.
	ErrHeld = errors.New("session is held")
	// ErrStale says that the record, or its owner's incarnation, changed since it
	// was read.
	ErrStale = errors.New("record has changed since it was read")
	// ErrEnded says that the session has ended, for ever.
	ErrEnded = errors.New("session has ended")
	// ErrNotAlive says that the calling worker has no living registration.
	ErrNotAlive = errors.New("worker is not alive")
	// ErrOwnerAlive says that the session's owner is alive.
	ErrOwnerAlive = errors.New("session's owner is alive")
	// ErrCondemned says that an incarnation is over: it left, another one took
	// its place, or a session was reclaimed from it.
	ErrCondemned = errors.New("incarnation is over")
	// ErrLeaseLost says that the lease no longer keeps the worker alive.
	ErrLeaseLost = errors.New("lease is lost")
	// ErrForeign says that the worker registered with another certificate than the
	// caller's.
	ErrForeign = errors.New("the worker is another's")
	// ErrWorkerNotFound says that no such worker is alive.
	ErrWorkerNotFound = errors.New("no such worker")
)
