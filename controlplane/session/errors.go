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
	// ErrTargetNotAlive says that the worker that was to own the session has no living
	// registration.
	ErrTargetNotAlive = errors.New("next owner is not alive")
	// ErrOwnerAlive says that the session's owner is alive.
	ErrOwnerAlive = errors.New("session's owner is alive")
	// ErrOwnerUncertain says that the owner, or the worker that opened the session, may
	// act though its lease is gone, and that the caller could not keep it from that.
	ErrOwnerUncertain = errors.New("session's owner may still serve it")
	// ErrHolding says that this replica has just started, or got the store back, and lets
	// workers come back before anything is taken from them.
	ErrHolding = errors.New("replica holds reclaims for now; ask another one")
	// ErrCondemned says that an incarnation is over: it left, another one took
	// its place, or a session was reclaimed from it.
	ErrCondemned = errors.New("incarnation is over")
	// ErrLeaseLost says that the lease no longer keeps the worker alive.
	ErrLeaseLost = errors.New("lease is lost")
	// ErrWorkerNotFound says that no such worker is known.
	ErrWorkerNotFound = errors.New("no such worker")
	// ErrWorkerAlive says that the worker holds its lease.
	ErrWorkerAlive = errors.New("worker is alive")
	// ErrPinned says that the session ends with its worker.
	ErrPinned = errors.New("session is pinned to its worker")
	// ErrInUse says that calls of the session were in flight all the time.
	ErrInUse = errors.New("session has calls in flight")
	// ErrNobodyTakes says that no worker takes the session.
	ErrNobodyTakes = errors.New("no worker takes the session")
	// ErrOwnerSilent says that the session's owner did not answer.
	ErrOwnerSilent = errors.New("session's owner did not answer")
)
