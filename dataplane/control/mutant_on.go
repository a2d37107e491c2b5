//go:build mutant

package control

import "os"

// A binary built with the tag mutant breaks the one guard that LEASEHOLD_MUTANT
// names. Tests of the rules of ownership are run against it, to see that they
// notice.
var (
	noFence                   = mutant("no-fence")
	fenceFromReply            = mutant("fence-from-reply")
	takeWithoutPower          = mutant("take-without-power")
	permitFromMajority        = mutant("permit-from-majority")
	permitUnreachableOK       = mutant("permit-unreachable-ok")
	permitWithoutWitnessTimes = mutant("permit-without-witness-times")
)

func mutant(name string) bool { return os.Getenv("LEASEHOLD_MUTANT") == name }
