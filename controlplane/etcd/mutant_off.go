//go:build !mutant

package etcd

// The guards that a binary for tests can be built without. Here all of them are
// in place: these are constants, so nothing is left of the questions.
const (
	noDeadOwnerGuard         = false
	noCompareAndSwap         = false
	readoptIgnoresCondemned  = false
	condemnedLater           = false
	endDeletes               = false
	noMayTake                = false
	noHold                   = false
	listDropsAbsent          = false
	handOverWithoutCAS       = false
	notFoundWithoutTombstone = false
)

func (s *Store) condemnLater(string) {}
