package store

import "time"

// Lease is what keeps a worker alive.
type Lease struct {
	// ID is the lease's id.
	ID int64
	// TTL is how long it lives without renewal.
	TTL time.Duration
}

// Attempt tells the registrations of a worker apart.
type Attempt struct {
	// Number is random for each registration, and the same when it is repeated; 0 if
	// that is not known.
	Number int64
	// Previous is the incarnation that the worker had before; 0 for none.
	Previous int64
}
