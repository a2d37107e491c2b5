//go:build !mutant

package control

// The guards that a binary for tests can be built without. Here all of them are
// in place: these are constants, so nothing is left of the questions.
const (
	noFence                   = false
	fenceFromReply            = false
	takeWithoutPower          = false
	permitFromMajority        = false
	permitUnreachableOK       = false
	permitWithoutWitnessTimes = false
)
