package gateway

import "errors"

var (
	// ErrUnknownThere says that a worker does not serve the gateway yet.
	ErrUnknownThere = errors.New("worker does not know the gateway yet")
	// ErrInspecting says that a worker makes as many inspections as it may.
	ErrInspecting = errors.New("worker makes as many inspections as it may")
	// ErrNobodyInspects says that no worker that could inspect a gateway answered.
	ErrNobodyInspects = errors.New("no worker answered")
)
