package rpc

import (
	"cmp"
	"errors"
)

// Protocol is the version of the protocol of workers and control planes that this
// control plane speaks. It is raised with a change that the version before cannot
// follow; workers of the versions next to it are served too, so that a system is
// upgraded one process after the other.
const Protocol = 1

var errIncompatible = errors.New("the worker and this control plane are more than one version of their protocol apart; upgrade one version at a time")

// compatible returns errIncompatible for a worker that says it speaks a version that is
// not served.
func compatible(says int32) error {
	if apart := int64(cmp.Or(says, 1)) - Protocol; apart < -1 || apart > 1 {
		return errIncompatible
	}
	return nil
}
