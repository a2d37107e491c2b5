package trust

import (
	"time"

	"golang.org/x/time/rate"
)

// Bounds of what strangers can make a process log: a line each second, after a
// few at once. leasehold_tls_refused_total counts them all.
const (
	lineEvery   = time.Second
	linesAtOnce = 20
)

// lines says whether there is room for one more line.
type lines struct{ *rate.Limiter }

func newLines() lines { return lines{rate.NewLimiter(rate.Every(lineEvery), linesAtOnce)} }
