// Package linear tests the one promise that everything rests on: a session has
// at most one owner that acts. Built binaries run as processes (etcd members,
// control planes, workers) under faults; what they did is written down and
// judged twice:
//
//   - by porcupine: what workers asked of the control plane, what they were told
//     and what an upstream saw of them must be explained by one order in which
//     each session has one owner at a time;
//   - by etcd's own history, revision by revision: at the moment of each change
//     the old owner was dead and condemned, the new one alive.
//
// Between workers and control planes lies a recorder, which also loses, delays
// and doubles messages. Whether the two judges notice anything is tested as
// well: the same product, built without one of its guards, must be found out.
package linear

import (
	"flag"
	"os"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

var (
	runFor  = flag.Duration("run-for", time.Minute, "how long the random run goes on")
	seed    = flag.Uint64("seed", 0, "seed of the random run; 0 chooses one")
	without = flag.String("without", "", "guard that the product of the random run is built without; it should be found out")
	keep    = flag.String("keep", "", "keep histories in this directory, even if nothing is wrong with them")
)

func TestMain(m *testing.M) {
	code := m.Run()
	cluster.RemoveBinaries()
	removeMutant()
	os.Exit(code)
}
