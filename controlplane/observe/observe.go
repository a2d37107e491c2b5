// Package observe asks workers what only they know: how their sessions are used and how
// much they have to do. It is for people who look, and who have sessions moved; nothing
// is decided by it.
package observe

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/hashicorp/go-hclog"

	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	// patience is how long the owners are given to answer.
	patience = time.Second
	// maxAtOnce bounds the owners that one call asks at the same time.
	maxAtOnce = 64
	// maxConns bounds the connections that are kept. When there are more owners,
	// the ones that were not asked for the longest time make room.
	maxConns = 256
	// maxAsked is how many sessions a worker is asked for at once.
	maxAsked = 1000
	// The keep-alive settings are within what workers allow.
	pingAfter   = 10 * time.Second
	pingTimeout = 3 * time.Second
)

// Observer keeps a connection to each worker that it has asked. It is safe to
// use from many goroutines.
type Observer struct {
	log hclog.Logger

	mu    sync.Mutex
	conns map[store.MemberKey]*conn // guarded by mu; nil after Close
}

type conn struct {
	*grpc.ClientConn
	asked time.Time // guarded by Observer.mu
}

// New returns an Observer without connections.
func New(log hclog.Logger) *Observer {
	return &Observer{log: log, conns: map[store.MemberKey]*conn{}}
}

// Observe asks each of the members for the sessions with the digests given, all
// at the same time, and returns within a second what was answered, by digest. A
// member that is not in snap, or does not answer, is left out.
func (o *Observer) Observe(ctx context.Context, snap *store.Snapshot, ask map[store.MemberKey][]string) map[string]*leaseholdv1.SessionActivity {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(maxAtOnce)
	var mu sync.Mutex
	found := map[string]*leaseholdv1.SessionActivity{}
	for key, digests := range ask {
		member, ok := snap.Members.Entries[key]
		if !ok {
			continue
		}
		group.Go(func() error {
			answer, err := o.ask(ctx, member, digests)
			if err != nil {
				o.log.Debug("owner did not say how its sessions are used", "worker", key.Worker, "error", err)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			for _, digest := range digests { // and nothing that was not asked for
				if a := answer[digest]; a != nil {
					found[digest] = a
				}
			}
			return nil
		})
	}
	_ = group.Wait() // none of them fails
	return found
}

func (o *Observer) ask(ctx context.Context, m store.Member, digests []string) (map[string]*leaseholdv1.SessionActivity, error) {
	c, err := o.conn(m)
	if err != nil {
		return nil, err
	}
	resp, err := leaseholdv1.NewPeerServiceClient(c).ObserveSessions(ctx, &leaseholdv1.ObserveSessionsRequest{
		Sessions: digests[:min(len(digests), maxAsked)],
	})
	return resp.GetActivities(), err
}

func (o *Observer) conn(m store.Member) (*grpc.ClientConn, error) {
	c, evicted, err := o.remember(m)
	if evicted != nil {
		_ = evicted.Close()
	}
	return c, err
}

// remember returns the member's connection, and the one that had to make room
// for it.
func (o *Observer) remember(m store.Member) (c, evicted *grpc.ClientConn, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.conns == nil {
		return nil, nil, errClosed
	}
	if c := o.conns[m.MemberKey]; c != nil {
		c.asked = time.Now()
		return c.ClientConn, nil, nil
	}
	c, err = grpc.NewClient("passthrough:///"+m.Info.GetPeerAddress(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingTimeout}))
	if err != nil {
		return nil, nil, fmt.Errorf("connect to worker %s: %w", m.Worker, err)
	}
	if len(o.conns) >= maxConns {
		oldest := o.oldest()
		evicted = o.conns[oldest].ClientConn
		delete(o.conns, oldest)
	}
	o.conns[m.MemberKey] = &conn{ClientConn: c, asked: time.Now()}
	return c, evicted, nil
}

var errClosed = errors.New("observer is closed")

// oldest is the connection that was not used for the longest time. o.mu is held.
func (o *Observer) oldest() (oldest store.MemberKey) {
	var last *conn
	for key, c := range o.conns {
		if last == nil || c.asked.Before(last.asked) {
			oldest, last = key, c
		}
	}
	return oldest
}

// Retain closes the connections to workers that are not among members.
func (o *Observer) Retain(members *store.Table[store.MemberKey, store.Member]) {
	var gone []*conn
	o.mu.Lock()
	for key, c := range o.conns {
		if _, alive := members.Entries[key]; !alive {
			gone = append(gone, c)
			delete(o.conns, key)
		}
	}
	o.mu.Unlock()
	for _, c := range gone {
		_ = c.Close()
	}
}

// Close closes all connections. Nothing is observed afterwards.
func (o *Observer) Close() {
	o.mu.Lock()
	conns := o.conns
	o.conns = nil
	o.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}
