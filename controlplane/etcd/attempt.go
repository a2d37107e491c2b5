package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// How long one attempt waits for a member of etcd, before the same is asked of
// the next one. A member that is stopped, or whose leader is, says nothing: with
// these, three members are tried before an election is over.
const (
	// attemptTimeout bounds an attempt to read a few keys or to change some.
	attemptTimeout = 500 * time.Millisecond
	// renewTimeout bounds an attempt to renew: two of them fit into what a worker
	// waits for a replica.
	renewTimeout = 300 * time.Millisecond
	// scanTimeout bounds an attempt to read a lot.
	scanTimeout = 3 * time.Second
	// roundsUnhurried is how often every member is asked before attempts are given
	// twice the time: then etcd is not silent but slow.
	roundsUnhurried = 2
)

// errMaybeFull says that an attempt was refused for want of space after another one
// that was not answered, which may be carried out yet.
var errMaybeFull = errors.New("refused after an attempt without an answer")

// attempt makes attempts until one gets an answer or ctx ends, each at another
// member if there are several, and returns what the last one got. What is asked
// must be safe to repeat: an attempt that was given up may have been carried out,
// or may be yet.
func attempt[T any](ctx context.Context, s *Store, limit time.Duration, do func(context.Context) (T, error)) (T, error) {
	if s.endpoints < 2 {
		return do(ctx)
	}
	for n := 1; ; n++ {
		one, cancel := context.WithTimeout(ctx, limit)
		answer, err := do(one)
		unanswered := one.Err() != nil || serverTimedOut(err)
		cancel()
		if err == nil || !unanswered || ctx.Err() != nil {
			if n > 1 && errors.Is(err, rpctypes.ErrNoSpace) {
				err = fmt.Errorf("%w: %w", errMaybeFull, err)
			}
			return answer, err
		}
		s.counts.repeated.Inc()
		if n%(roundsUnhurried*s.endpoints) == 0 {
			limit *= 2
		}
	}
}

// serverTimedOut reports whether a member waited in vain for the others: it counts
// down the attempt's time too, and may be quicker to say so.
func serverTimedOut(err error) bool {
	return errors.Is(err, rpctypes.ErrTimeout) || errors.Is(err, rpctypes.ErrTimeoutDueToLeaderFail)
}
