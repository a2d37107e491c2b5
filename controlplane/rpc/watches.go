package rpc

import (
	"context"
	"errors"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/leasehold/leasehold/controlplane/publish"
)

const (
	// maxWatches bounds the operators' watches of a replica: each has a stream
	// from the store of its own.
	maxWatches = 64
	// DefaultReadPatience is how long a watch waits for its caller to read.
	DefaultReadPatience = 5 * time.Second
)

var (
	// errSlowReader says that a watch was ended because its caller does not read.
	errSlowReader = errors.New("watch was not read in time; resume it, and read faster")
	// errTooManyWatches says that the replica has maxWatches watches already.
	errTooManyWatches = errors.New("this replica serves 64 watches already; ask another one")
)

// watches is what all watches of operators share.
type watches struct {
	patience time.Duration
	places   chan struct{} // has room for maxWatches
	stopped  context.Context
	stop     context.CancelFunc
	// senders are the goroutines that send. Each ends with its stream.
	senders sync.WaitGroup
}

func newWatches(patience time.Duration) *watches {
	if patience == 0 {
		patience = DefaultReadPatience
	}
	w := &watches{patience: patience, places: make(chan struct{}, maxWatches)}
	w.stopped, w.stop = context.WithCancel(context.Background())
	return w
}

// serveWatch runs a watch until the caller goes, is too slow, or the replica
// stops. Nothing is queued: a message is handed to the one goroutine that sends,
// and when it is not taken in time the watch is over. That goroutine may then be
// stuck in sending; the stream's end frees it.
func serveWatch[M any](w *watches, stream grpc.ServerStreamingServer[M], watch func(ctx context.Context, send func(*M) error) error) error {
	select {
	case w.places <- struct{}{}:
		defer func() { <-w.places }()
	default:
		return errTooManyWatches
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	defer context.AfterFunc(w.stopped, func() { cancel(publish.ErrStopped) })()
	messages := make(chan *M)
	w.senders.Go(func() {
		for {
			select {
			case m := <-messages:
				if err := stream.Send(m); err != nil {
					cancel(context.Canceled) // the caller is gone
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
	err := watch(ctx, func(m *M) error { return handOver(ctx, messages, m, w.patience) })
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

func handOver[M any](ctx context.Context, messages chan<- *M, m *M, patience time.Duration) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case messages <- m:
		return nil
	case <-timer.C:
		return errSlowReader
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
