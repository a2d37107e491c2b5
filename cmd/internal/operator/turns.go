package operator

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
)

// Pauses before a replica is asked again; each is a random part of a bound that
// doubles from the first to the last.
const (
	firstPause = 200 * time.Millisecond
	lastPause  = 3 * time.Second
)

// turns goes round the replicas of the control plane, from one that failed to
// the next.
type turns struct {
	addresses []string // the one to ask now first
	note      func(text string)
	pause     time.Duration
	lost      bool // it was noted that the control plane is lost
}

func newTurns(control []string, note func(text string)) *turns {
	return &turns{addresses: slices.Clone(control), note: note, pause: firstPause}
}

// heard says that the replica whose turn it is has answered.
func (t *turns) heard() {
	t.pause = firstPause
	if t.lost {
		t.note("back: going on")
		t.lost = false
	}
}

// next makes it the next replica's turn, after a pause, because of err. It returns
// the cause of ctx's end if that comes first.
func (t *turns) next(ctx context.Context, err error) error {
	if !t.lost {
		t.note(fmt.Sprintf("lost the control plane: %v; trying again", Explain(err)))
		t.lost = true
	}
	t.addresses = append(t.addresses[1:], t.addresses[0])
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(rand.N(t.pause) + time.Millisecond):
	}
	t.pause = min(2*t.pause, lastPause)
	return nil
}

// final reports whether another replica would answer in the same way.
func final(err error) bool {
	switch Code(err) {
	case codes.InvalidArgument, codes.OutOfRange, codes.Unimplemented, codes.NotFound, codes.FailedPrecondition,
		codes.PermissionDenied, codes.Unauthenticated:
		return true
	}
	return false
}
