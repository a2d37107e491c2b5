package control

import "golang.org/x/sys/unix"

// On darwin CLOCK_MONOTONIC counts suspend; CLOCK_UPTIME_RAW does not.
const bootClock = unix.CLOCK_MONOTONIC
