package control

import (
	"time"

	"golang.org/x/sys/unix"
)

// sinceBoot is a monotonic clock that counts the time a machine is suspended;
// the clock that Go's time package uses stands still meanwhile, and a worker
// that slept would trust a lease that is long gone.
func sinceBoot() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(bootClock, &now); err != nil {
		panic("control: no boot clock: " + err.Error()) // the clock exists on every supported system
	}
	return time.Duration(now.Nano())
}
