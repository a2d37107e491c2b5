package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/poll"
)

const (
	// pathWorker is the row of a worker, and pathStreams of that many streams to one
	// control plane.
	pathWorker  = "worker"
	pathStreams = "streams"
	streams     = 20
	// creators is how many gateways are created at the same time.
	creators = 64
	// changes is how many changes are measured, each of which makes a gateway and
	// removes it again.
	changes = 30
	// changeLimit is when a change counts as lost.
	changeLimit = 30 * time.Second
)

// configured is a cluster with many gateways.
type configured struct {
	*cluster.Cluster
	gateways leaseholdv1.GatewayServiceClient
	control  leaseholdv1.ControlServiceClient
	upstream string
	busy     []*caller // sessions at the worker
}

// configSection measures how long a change takes to where it counts, and what gateways
// cost, in a cluster of its own with many of them.
func (b *bench) configSection(ctx context.Context) error {
	dir := filepath.Join(b.world.dir, "config")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	c, err := cluster.Start(ctx, cluster.Config{Workers: 1, Dir: dir, Plaintext: true})
	if err != nil {
		return err
	}
	defer c.Close()
	conn, err := c.Dial(c.Control[0].Address, cluster.Operator)
	if err != nil {
		return err
	}
	defer conn.Close()
	many := &configured{
		Cluster: c, upstream: b.world.opens[pathDirect],
		gateways: leaseholdv1.NewGatewayServiceClient(conn), control: leaseholdv1.NewControlServiceClient(conn),
	}
	if err := many.measure(ctx, b); err != nil {
		return fmt.Errorf("%w\n%s", err, c.Logs())
	}
	return nil
}

// measure measures a worker and then streams.
func (c *configured) measure(ctx context.Context, b *bench) error {
	worker := c.Workers[0]
	if err := c.Apply(ctx, gateway, c.upstream, ""); err != nil {
		return err
	}
	if _, err := poll.Until(ctx, changeLimit, func(ctx context.Context) error { return c.Applied(ctx, gateway) }); err != nil {
		return err
	}
	for range goalClients {
		one, err := newCaller(ctx, worker.URL(gateway), worker.URL(gateway))
		if err != nil {
			return err
		}
		c.busy = append(c.busy, one)
	}
	before, err := c.rest(ctx, worker)
	if err != nil {
		return err
	}
	if _, before[figureRSS], err = c.fresh(ctx); err != nil {
		return err
	}
	began := time.Now()
	if err := c.createAll(ctx, b.gateways); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%-8s %d gateways made in %v\n", sectionConfig, b.gateways, time.Since(began).Round(time.Millisecond))
	for range b.settings.rounds {
		v, err := c.round(ctx, b.gateways, worker, before)
		if err != nil {
			return err
		}
		row := b.result.row(sectionConfig, pathWorker, b.gateways)
		row.Rounds = append(row.Rounds, v)
		if v, err = c.streams(ctx); err != nil {
			return err
		}
		row = b.result.row(sectionConfig, pathStreams, b.gateways)
		row.Rounds = append(row.Rounds, v)
	}
	return nil
}

// round measures changes at a worker, a worker that is new, and what a worker holds.
func (c *configured) round(ctx context.Context, gateways int, worker *cluster.Worker, before values) (values, error) {
	began := time.Now()
	took, err := c.changes(ctx, func(ctx context.Context, id string, there bool) error {
		return c.serves(ctx, worker, id, there)
	})
	if err != nil {
		return nil, err
	}
	v := summary(took, time.Since(began))
	after, err := c.rest(ctx, worker)
	if err != nil {
		return nil, err
	}
	if v[figureFresh], after[figureRSS], err = c.fresh(ctx); err != nil {
		return nil, err
	}
	for name := range before {
		v[name] = (after[name] - before[name]) / float64(gateways)
	}
	fmt.Fprintf(os.Stderr, "%-8s p99 of a change %.0f ms, at rest before %v, after %v\n", sectionConfig, v[figureP99], before, after)
	return v, nil
}

// rest says what the heap of a worker, and the control plane, hold when nothing happens.
func (c *configured) rest(ctx context.Context, worker *cluster.Worker) (values, error) {
	v := values{}
	var err error
	if v[figureHeap], err = collectedHeap(ctx, worker, c.busy); err != nil {
		return nil, err
	}
	v[figureControlRSS], err = residentBytes(c.Control[0].PID)
	return v, err
}

// createAll makes gateways, and returns when the worker has applied all of them.
func (c *configured) createAll(ctx context.Context, n int) error {
	group, creating := errgroup.WithContext(ctx)
	group.SetLimit(creators)
	for i := range n {
		group.Go(func() error { return c.create(creating, fmt.Sprintf("gateway-%d", i)) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return c.serves(ctx, c.Workers[0], fmt.Sprintf("gateway-%d", n-1), true)
}

func (c *configured) create(ctx context.Context, id string) error {
	_, err := c.gateways.CreateGateway(ctx, &leaseholdv1.CreateGatewayRequest{GatewayId: id, Gateway: &leaseholdv1.Gateway{
		Description: "one of many", Labels: map[string]string{"team": "bench", "tier": id},
		Upstreams: []*leaseholdv1.Upstream{{Name: "upstream", Url: c.upstream}},
	}})
	return err
}

// changes makes gateways and removes them, and returns how long each change took from
// when it was asked for until seen says that it is seen.
func (c *configured) changes(ctx context.Context, seen func(ctx context.Context, id string, there bool) error) ([]time.Duration, error) {
	var took []time.Duration
	for n := range changes {
		id := fmt.Sprintf("change-%d", n)
		for _, there := range []bool{true, false} {
			began := time.Now()
			var err error
			if there {
				err = c.create(ctx, id)
			} else {
				_, err = c.gateways.DeleteGateway(ctx, &leaseholdv1.DeleteGatewayRequest{Name: "gateways/" + id})
			}
			if err == nil {
				err = seen(ctx, id, there)
			}
			if err != nil {
				return nil, err
			}
			took = append(took, time.Since(began))
		}
	}
	return took, nil
}

// serves returns when a worker serves a gateway, or does not any more. It asks with a
// method that no gateway has, which is answered without an upstream.
func (c *configured) serves(ctx context.Context, w *cluster.Worker, id string, there bool) error {
	want := http.StatusNotFound
	if there {
		want = http.StatusMethodNotAllowed
	}
	for deadline := time.Now().Add(changeLimit); ; {
		resp, err := client.Do(ctx, http.MethodPut, w.URL(id), nil, nil)
		if err != nil {
			return err
		}
		if resp.Status == want {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s answers with %d for %s after %v, want %d", w.Name, resp.Status, id, changeLimit, want)
		}
	}
}

// fresh is how long a new worker takes from its start until it is ready, which it is
// once it has the complete state, in milliseconds; and its resident memory then.
func (c *configured) fresh(ctx context.Context) (took, rss float64, err error) {
	began := time.Now()
	if err := c.StartWorkers(ctx, 1); err != nil {
		return 0, 0, err
	}
	took = milliseconds(time.Since(began))
	last := len(c.Workers) - 1
	rss, err = residentBytes(c.Workers[last].PID)
	c.Workers[last].Kill()
	c.Workers = c.Workers[:last]
	return took, rss, err
}

// streams measures how long a change takes to all of many streams, each of which has
// acknowledged it then, and how long they take to the complete state.
func (c *configured) streams(ctx context.Context) (values, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	began := time.Now()
	all := make([]*stream, streams)
	for i := range all {
		all[i] = &stream{control: c.control, worker: fmt.Sprintf("%016x", i+1), seen: make(chan event, 1)}
		group.Go(func() { all[i].run(ctx) })
	}
	var whole event
	for _, s := range all {
		if err := s.await(whole); err != nil {
			return nil, err
		}
	}
	complete := time.Since(began)
	began = time.Now()
	took, err := c.changes(ctx, func(_ context.Context, id string, there bool) error {
		for _, s := range all {
			if err := s.await(event{"gateways/" + id, there, nil}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	v := summary(took, time.Since(began))
	v[figureFresh] = milliseconds(complete)
	fmt.Fprintf(os.Stderr, "%-8s p99 of a change to %d streams %.0f ms\n", sectionConfig, streams, v[figureP99])
	return v, nil
}

// stream is a worker's stream of the state, without a worker behind it.
type stream struct {
	control leaseholdv1.ControlServiceClient
	worker  string
	seen    chan event
}

// event is what a stream has told and acknowledged: a gateway is there, or is not any
// more; the zero value means the complete state.
type event struct {
	gateway string
	there   bool
	err     error
}

// await returns when the stream has told what is wanted, which has to come next.
func (s *stream) await(want event) error {
	timer := time.NewTimer(changeLimit)
	defer timer.Stop()
	select {
	case got := <-s.seen:
		if got != want {
			return fmt.Errorf("stream of %s: got %v, want %v", s.worker, got, want)
		}
		return nil
	case <-timer.C:
		return fmt.Errorf("stream of %s: not told of %v within %v", s.worker, want, changeLimit)
	}
}

// run registers, and follows the state until ctx ends.
func (s *stream) run(ctx context.Context) {
	err := s.follow(ctx)
	select {
	case s.seen <- event{err: err}:
	case <-ctx.Done():
	}
}

func (s *stream) follow(ctx context.Context) error {
	registered, err := s.control.Register(ctx, &leaseholdv1.RegisterRequest{Worker: s.worker, Info: &leaseholdv1.WorkerInfo{PeerAddress: "127.0.0.1:1"}})
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.keep(ctx, registered) })
	group.Go(func() error { return s.receive(ctx, registered.GetIncarnation()) })
	return group.Wait()
}

// keep renews the lease.
func (s *stream) keep(ctx context.Context, held *leaseholdv1.RegisterResponse) error {
	for {
		if err := sleep(ctx, held.GetTtl().AsDuration()/6); err != nil {
			return err
		}
		if _, err := s.control.Renew(ctx, &leaseholdv1.RenewRequest{Worker: s.worker, Incarnation: held.GetIncarnation(), Lease: held.GetLease()}); err != nil {
			return err
		}
	}
}

// receive acknowledges each state that is whole.
func (s *stream) receive(ctx context.Context, incarnation int64) error {
	watch, err := s.control.Watch(ctx)
	if err != nil {
		return err
	}
	for acknowledge := int64(0); ; {
		if err := watch.Send(&leaseholdv1.WatchRequest{Worker: s.worker, Incarnation: incarnation, AppliedRevision: acknowledge}); err != nil {
			return err
		}
		events, revision, err := part(watch)
		if err != nil {
			return err
		}
		for _, e := range events {
			select {
			case s.seen <- e:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		acknowledge = revision
	}
}

// part reads a state that is whole, or a difference that is.
func part(watch grpc.BidiStreamingClient[leaseholdv1.WatchRequest, leaseholdv1.WatchResponse]) (events []event, revision int64, err error) {
	for {
		resp, err := watch.Recv()
		if err != nil {
			return nil, 0, err
		}
		if resp.GetComplete() {
			if !resp.GetMore() {
				return []event{{}}, resp.GetRevision(), nil
			}
			continue
		}
		for _, g := range resp.GetGateways() {
			events = append(events, event{gateway: g.GetName(), there: true})
		}
		for _, name := range resp.GetRemovedGateways() {
			events = append(events, event{gateway: name})
		}
		if !resp.GetMore() {
			return events, resp.GetRevision(), nil
		}
	}
}
