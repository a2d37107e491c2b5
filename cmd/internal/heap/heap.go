// Package heap tells the garbage collector how much memory a process may use
// before collecting is worth it.
package heap

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
)

// Bounds of the collector's percentage: it is never made more eager than by
// default, and a tiny heap does not make it forget to run.
const (
	atLeast = 100
	atMost  = 4000
)

// Floor makes the collector wait until the heap has n bytes, or twice what is
// live if that is more. By default it starts at 4 MiB, so that a process which
// keeps little and makes garbage with each request collects dozens of times a
// second. It does nothing if GOGC is set: then somebody decided otherwise.
//
// It sets the whole process's percentage, again after each collection.
func Floor(n uint64) {
	if os.Getenv("GOGC") != "" {
		return
	}
	adjust(n)
}

// tick is garbage: its finalizer runs after each collection. It has a pointer,
// so that it does not share its memory with other small objects.
type tick struct{ _ *byte }

func adjust(n uint64) {
	debug.SetGCPercent(percent(n, live()))
	runtime.SetFinalizer(&tick{}, func(*tick) { adjust(n) })
}

// percent is how much garbage may come on top of the live bytes.
func percent(floor, live uint64) int {
	live = max(live, 1)
	if floor <= live {
		return atLeast
	}
	return int(min(max((floor-live)*100/live, atLeast), atMost))
}

// live returns the bytes that the last collection found in use.
func live() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return sample[0].Value.Uint64()
}
