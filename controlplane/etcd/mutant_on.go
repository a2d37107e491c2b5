//go:build mutant

package etcd

import (
	"context"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// A binary built with the tag mutant breaks the one guard that LEASEHOLD_MUTANT
// names. Tests of the rules of ownership are run against it, to see that they
// notice.
var (
	noDeadOwnerGuard        = mutant("no-dead-owner-guard")
	noCompareAndSwap        = mutant("no-compare-and-swap")
	readoptIgnoresCondemned = mutant("readopt-ignores-condemned")
	condemnedLater          = mutant("condemned-later")
	endDeletes              = mutant("end-deletes")
	// noMayTake takes from any dead owner, whomever that asks before it serves on.
	noMayTake = mutant("no-may-take")
	// noHold takes over as soon as etcd is there.
	noHold = mutant("no-hold")
	// listDropsAbsent drops from a worker's list whoever is not alive.
	listDropsAbsent = mutant("list-drops-absent")
	// handOverWithoutCAS hands over whatever the record is by now.
	handOverWithoutCAS = mutant("hand-over-without-cas")
	// notFoundWithoutTombstone says that a session without a record is over as soon as
	// the worker that opened it is dead.
	notFoundWithoutTombstone = mutant("not-found-without-tombstone")
)

func mutant(name string) bool { return os.Getenv("LEASEHOLD_MUTANT") == name }

// condemnLater puts a condemned key where it no longer protects anybody.
func (s *Store) condemnLater(key string) {
	time.AfterFunc(time.Second, func() {
		ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
		defer cancel()
		_, _ = s.txn(ctx, "reclaim", nil, []clientv3.Op{clientv3.OpPut(key, unixText(time.Now()))}, nil)
	})
}
