package store

import leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"

// Change is one step of a watch.
type Change[T any] struct {
	// Type says what happened. A bookmark has no resource.
	Type leaseholdv1.ChangeType
	// Resource is the resource as it is then.
	Resource T
	// Revision is where a watch resumes that has seen this change: every change
	// up to it has been told, and none after it. It is 0 until the state that a
	// watch begins with has been told as a whole.
	Revision int64
}
