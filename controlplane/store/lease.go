package store

import "time"

// Lease is what keeps a worker alive.
type Lease struct {
	// ID is the lease's id.
	ID int64
	// TTL is how long it lives without renewal.
	TTL time.Duration
}
