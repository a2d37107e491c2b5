package linear

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
	"github.com/leasehold/leasehold/test/internal/poll"
)

// owners is what answers said of who owns which session.
type owners struct {
	world *world

	mu  sync.Mutex // guards all
	all map[string]ownership
}

func newOwners(w *world) *owners { return &owners{world: w, all: map[string]ownership{}} }

type ownership struct {
	process  string
	key      string
	record   *leaseholdv1.SessionRecord
	revision int64
}

// saw takes in an operation; the recorder calls it.
func (o *owners) saw(op operation, request, response proto.Message) {
	if op.Outcome != done {
		return
	}
	now := ownership{process: op.Process, key: op.Session, revision: op.Got.Revision}
	switch r := response.(type) {
	case *leaseholdv1.ClaimResponse:
		now.record = request.(*leaseholdv1.ClaimRequest).GetRecord()
	case *leaseholdv1.ReclaimResponse:
		now.record = r.GetRecord()
	case *leaseholdv1.HandOverResponse:
		now.record, now.process = r.GetRecord(), o.world.named(r.GetRecord().GetWorker())
	case *leaseholdv1.SaveResponse:
		now.record = request.(*leaseholdv1.SaveRequest).GetRecord()
	case *leaseholdv1.EndResponse:
	default:
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if now.record == nil {
		delete(o.all, op.Session)
	} else if o.all[op.Session].revision < now.revision {
		o.all[op.Session] = now
	}
}

// of returns what is known of a session.
func (o *owners) of(key string) (ownership, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	one, ok := o.all[key]
	return one, ok
}

// some returns what is known of some session.
func (o *owners) some() (ownership, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, one := range o.all {
		return one, true
	}
	return ownership{}, false
}

// saver saves records in the name of their owners, which do it rarely, until ctx
// ends. It may be behind, and some saves arrive once more later: then they must
// be refused. It leaves half of the sessions alone: an owner behind whose back the
// record changes can hand nothing over.
func (w *world) saver(ctx context.Context, o *owners, random *rand.Rand) {
	for i := 0; pause(ctx, time.Duration(random.IntN(120))*time.Millisecond) == nil; i++ {
		known, ok := o.some()
		if !ok || !known.changes() {
			continue
		}
		at, c := w.saving(known, i)
		way := at.lanes[random.IntN(len(at.lanes))]
		_, _ = way.carry(ctx, c, false) // whatever comes of it is written down
		if random.IntN(4) == 0 {
			way.repeat(c, time.Duration(random.Int64N(int64(5*time.Second))))
		}
	}
}

// changes reports whether the session is one of those whose records change behind their
// owners' backs.
func (o ownership) changes() bool { return strings.ContainsAny(o.key[len(o.key)-1:], "89abcdef") }

// mover has the control plane hand over one session after the other, until ctx ends.
func (w *world) mover(ctx context.Context, o *owners, random *rand.Rand) {
	for pause(ctx, time.Duration(random.IntN(400))*time.Millisecond) == nil {
		known, ok := o.some()
		to := w.workers[random.IntN(len(w.workers))]
		if !ok || known.changes() || known.process == to.name {
			continue
		}
		gateway, digest := split(known.key)
		w.moveAt(ctx, w.controls[random.IntN(len(w.controls))], "gateways/"+gateway+"/sessions/"+digest, to)
	}
}

// moveAt has a replica make a worker the owner of a session. Whatever comes of it is
// written down where it takes place.
func (w *world) moveAt(ctx context.Context, replica *service, name string, to *worker) {
	ctx, cancel := context.WithTimeout(ctx, w.ttl)
	defer cancel()
	conn, err := dial(replica.address)
	if err != nil {
		return
	}
	defer conn.Close()
	_, _ = leaseholdv1.NewSessionServiceClient(conn).MoveSession(ctx, &leaseholdv1.MoveSessionRequest{Name: name, Worker: "workers/" + to.id()})
}

// saving is the call by which an owner saves its record, changed a little.
func (w *world) saving(known ownership, number int) (*worker, call) {
	record := proto.CloneOf(known.record)
	record.Client = &leaseholdv1.ClientInfo{Name: "saved", Version: fmt.Sprint(number)}
	gateway, digest := split(known.key)
	at := w.process(known.process)
	return at, call{at.road, save, &leaseholdv1.SaveRequest{Gateway: gateway, Session: digest, Revision: known.revision, Record: record}}
}

// process is the worker of that name.
func (w *world) process(name string) *worker {
	return w.workers[slices.IndexFunc(w.workers, func(wk *worker) bool { return wk.name == name })]
}

// split takes gateway/digest apart.
func split(key string) (gateway, digest string) {
	gateway, digest, _ = strings.Cut(key, "/")
	return gateway, digest
}

// detour is the way that all reclaims take while it is open: they arrive once it
// is closed again.
type detour struct {
	mu sync.Mutex // guards all below
	c  chan struct{}
}

// open makes reclaims wait until the returned function is called.
func (d *detour) open() (arrive func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := make(chan struct{})
	d.c = c
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.c == c {
			d.c = nil
		}
		close(c)
	}
}

// current is closed when the detour ends; nil if there is none.
func (d *detour) current() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.c
}

// careless is the policy of a network that loses, delays and doubles messages.
// It spares renewals for the most part, so that workers live.
func careless(random *rand.Rand, reclaims *detour) policy {
	var mu sync.Mutex // guards random
	return func(c call) plan {
		mu.Lock()
		defer mu.Unlock()
		p := plan{insist: random.IntN(2) == 0}
		if late := reclaims.current(); late != nil && c.method == reclaim {
			return plan{before: late, insist: true}
		}
		roll := random.IntN(100)
		if c.method == "Renew" {
			roll *= 4
		}
		switch {
		case roll < 3:
			p.lost = true
		case roll < 8:
			p.unanswered = true
		case roll < 13:
			p.before, p.insist = after(random, 3*time.Second), true
		case roll < 16:
			p.after = after(random, 2*time.Second)
		case roll < 30:
			p.again = []time.Duration{time.Duration(random.Int64N(int64(5 * time.Second)))}
		}
		return p
	}
}

// after returns a channel that is closed within most.
func after(random *rand.Rand, most time.Duration) <-chan struct{} {
	c := make(chan struct{})
	time.AfterFunc(time.Duration(random.Int64N(int64(most))), func() { close(c) })
	return c
}

// fault is something bad that happens, and passes.
type fault struct {
	name string
	// strike makes it happen, and returns when it has passed. It calls struck
	// once it has begun.
	strike func(ctx context.Context, struck func()) error
}

// nemesis makes faults happen, one after the other.
type nemesis struct {
	world    *world
	load     *load
	reclaims *detour
	random   *rand.Rand
	count    func(fault string, inFlight int64)
}

// run strikes with all faults in random order, again and again, until ctx ends;
// the last one passes before it returns.
func (n *nemesis) run(ctx context.Context, calm time.Duration, faults func() []fault) error {
	for {
		deck := faults()
		n.random.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		for _, f := range deck {
			if pause(ctx, calm/2+time.Duration(n.random.Int64N(int64(calm)))) != nil {
				return nil
			}
			struck := func() { n.count(f.name, n.load.inFlight.Load()) }
			if err := f.strike(context.WithoutCancel(ctx), struck); err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
		}
	}
}

// between returns a time between two.
func (n *nemesis) between(least, most time.Duration) time.Duration {
	return least + time.Duration(n.random.Int64N(int64(most-least)))
}

// ofWorkers are the faults of one of some workers.
func (n *nemesis) ofWorkers(some []*worker) func() []fault {
	ttl := n.world.ttl
	return func() []fault {
		var deck []fault
		add := func(name string, strike func(ctx context.Context, at *worker, struck func()) error) {
			at := some[n.random.IntN(len(some))]
			deck = append(deck, fault{name, func(ctx context.Context, struck func()) error { return strike(ctx, at, struck) }})
		}
		for range 2 {
			add("stopped longer than a lease", func(ctx context.Context, at *worker, struck func()) error {
				return n.stop(ctx, &at.service, n.between(ttl+ttl/4, 2*ttl), struck)
			})
			add("cut off longer than a lease", func(ctx context.Context, at *worker, struck func()) error {
				return n.sever(ctx, at, n.between(ttl+ttl/4, 2*ttl), struck)
			})
			add("lease lost, sessions at rest", n.loseAtRest)
		}
		add("lease lost, reclaims late", n.loseEarly)
		add("killed", func(ctx context.Context, at *worker, struck func()) error {
			at.current().Kill()
			struck()
			return errors.Join(pause(ctx, n.between(0, 2*ttl)), n.world.launch(ctx, at))
		})
		add("stopped", func(ctx context.Context, at *worker, struck func()) error {
			return n.stop(ctx, &at.service, n.between(ttl/6, ttl), struck)
		})
		add("cut off", func(ctx context.Context, at *worker, struck func()) error {
			return n.sever(ctx, at, n.between(ttl/6, ttl), struck)
		})
		add("lease lost", func(ctx context.Context, at *worker, struck func()) error {
			return n.loseLease(ctx, at, n.between(0, ttl/2), struck)
		})
		add("cut off from everybody", func(ctx context.Context, at *worker, struck func()) error {
			defer n.part(at)()
			return n.sever(ctx, at, n.between(ttl/2, 2*ttl), struck)
		})
		add("cut off from the others", func(ctx context.Context, at *worker, struck func()) error {
			defer n.part(at)()
			struck()
			return pause(ctx, n.between(ttl/6, ttl))
		})
		add("drained", n.drain)
		add("told to stop", func(ctx context.Context, at *worker, struck func()) error {
			if err := at.current().Signal(syscall.SIGTERM); err != nil {
				return err
			}
			struck()
			if _, err := at.current().Wait(stopLimit); err != nil {
				return err
			}
			return n.world.launch(ctx, at)
		})
		return deck
	}
}

// stopLimit is how long a worker may take to end once it is told to.
const stopLimit = 45 * time.Second

// part cuts a worker off from the others, until the returned function is called.
func (n *nemesis) part(at *worker) (join func()) {
	for _, other := range n.world.workers {
		if other != at {
			other.peers.Cut(at.name)
			at.peers.Cut(other.name)
		}
	}
	return func() {
		for _, wk := range n.world.workers {
			wk.peers.Heal()
		}
	}
}

// drain has a worker hand all of its sessions over, and take some again after a while.
func (n *nemesis) drain(ctx context.Context, at *worker, struck func()) error {
	conn, err := dial(n.world.controls[n.random.IntN(len(n.world.controls))].address)
	if err != nil {
		return err
	}
	defer conn.Close()
	workers := leaseholdv1.NewWorkerServiceClient(conn)
	limited, cancel := context.WithTimeout(ctx, n.world.ttl)
	defer cancel()
	// They fail if the worker or the replica does not live now.
	_, _ = workers.DrainWorker(limited, &leaseholdv1.DrainWorkerRequest{Name: "workers/" + at.id()})
	struck()
	if err := pause(ctx, n.between(n.world.ttl/6, n.world.ttl)); err != nil {
		return err
	}
	_, err = poll.Until(ctx, storeLimit, func(ctx context.Context) error {
		_, err := workers.UndrainWorker(ctx, &leaseholdv1.UndrainWorkerRequest{Name: "workers/" + at.id()})
		if c := status.Code(err); c == codes.FailedPrecondition || c == codes.NotFound {
			return nil // it is dead, and drains no more when it is back
		}
		return err
	})
	return err
}

// stop stops a process in its tracks for a while.
func (n *nemesis) stop(ctx context.Context, s *service, d time.Duration, struck func()) error {
	if err := s.stop(); err != nil {
		return err
	}
	struck()
	return errors.Join(pause(ctx, d), s.goOn())
}

// sever cuts a worker off from all control planes for a while.
func (n *nemesis) sever(ctx context.Context, at *worker, d time.Duration, struck func()) error {
	at.sever()
	struck()
	defer at.heal()
	return pause(ctx, d)
}

// loseLease takes a worker's lease away. A lease lasts its time, as far as its
// holder can know; so it is taken only once the worker itself cannot count on it
// any more. The worker is cut off for as long again as longer says.
func (n *nemesis) loseLease(ctx context.Context, at *worker, longer time.Duration, struck func()) error {
	at.sever()
	defer at.heal()
	struck()
	if err := pause(ctx, n.world.ttl*3/4+50*time.Millisecond); err != nil {
		return err
	}
	if err := n.world.revoke(ctx, at); err != nil {
		return err
	}
	return pause(ctx, longer)
}

// loseAtRest takes a worker's lease away while nobody uses its sessions, so that
// it can re-adopt before anybody takes them.
func (n *nemesis) loseAtRest(ctx context.Context, at *worker, struck func()) error {
	goOn := n.load.rest(at)
	defer goOn()
	if err := n.loseLease(ctx, at, n.between(0, n.world.ttl/2), struck); err != nil {
		return err
	}
	n.back(ctx, at)
	return nil
}

// loseEarly takes a worker's lease away, and what others make of that arrives
// when the worker is back.
func (n *nemesis) loseEarly(ctx context.Context, at *worker, struck func()) error {
	defer n.reclaims.open()()
	if err := n.loseLease(ctx, at, n.world.ttl/2, struck); err != nil {
		return err
	}
	n.back(ctx, at)
	return nil
}

// back waits until a worker is alive again, but not for ever: other faults may
// keep it from that.
func (n *nemesis) back(ctx context.Context, at *worker) {
	_, _ = poll.Until(ctx, n.world.ttl, func(ctx context.Context) error {
		count, err := n.world.member(ctx, at)
		if err == nil && count == 0 {
			err = errors.New("it is not a member")
		}
		return err
	})
}

// storeLimit bounds a request of the test to etcd, a member of which may not be
// there.
const storeLimit = 15 * time.Second

// member counts the member keys of a worker.
func (w *world) member(ctx context.Context, at *worker) (int64, error) {
	resp, err := w.store.Get(ctx, root+"members/"+at.id()+"/", clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		return 0, err
	}
	return resp.Count, nil
}

// revoke revokes the leases of a worker, whichever it has.
func (w *world) revoke(ctx context.Context, at *worker) error {
	_, err := poll.Until(ctx, storeLimit, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		members, err := w.store.Get(ctx, root+"members/"+at.id()+"/", clientv3.WithPrefix())
		if err != nil {
			return err
		}
		for _, kv := range members.Kvs {
			// It may end by itself at this very moment.
			_, _ = w.store.Revoke(ctx, clientv3.LeaseID(kv.Lease))
		}
		return nil
	})
	return err
}

// ofStore are the faults of etcd and of the control planes.
func (n *nemesis) ofStore() []fault {
	w := n.world
	return []fault{
		{"etcd leader killed", func(ctx context.Context, struck func()) error {
			return n.restart(ctx, w.leader(ctx), n.between(500*time.Millisecond, 3*time.Second), struck)
		}},
		{"etcd leader stopped", func(ctx context.Context, struck func()) error {
			return n.stop(ctx, w.leader(ctx), n.between(time.Second, 4*time.Second), struck)
		}},
		{"control plane killed", func(ctx context.Context, struck func()) error {
			return n.restart(ctx, w.controls[n.random.IntN(len(w.controls))], n.between(500*time.Millisecond, 3*time.Second), struck)
		}},
		{"all control planes killed", func(ctx context.Context, struck func()) error {
			return n.outage(ctx, w.controls, struck)
		}},
		{"quorum of etcd killed", func(ctx context.Context, struck func()) error {
			return n.outage(ctx, w.etcd[:len(w.etcd)/2+1], struck)
		}},
	}
}

// outage kills processes without which no worker can renew its lease, and starts them
// again after a while.
func (n *nemesis) outage(ctx context.Context, services []*service, struck func()) error {
	for _, s := range services {
		s.current().Kill()
	}
	struck()
	if err := pause(ctx, n.between(n.world.ttl, 3*n.world.ttl)); err != nil {
		return err
	}
	var group sync.WaitGroup
	errs := make([]error, len(services))
	for i, s := range services {
		group.Go(func() { errs[i] = s.start(ctx) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// restart kills a process and starts it again after a while.
func (n *nemesis) restart(ctx context.Context, s *service, d time.Duration, struck func()) error {
	s.current().Kill()
	struck()
	if err := pause(ctx, d); err != nil {
		return err
	}
	return s.start(ctx)
}

// leader returns the member that leads etcd now, or the first if nobody can say.
func (w *world) leader(ctx context.Context) *service {
	for _, s := range w.etcd {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		status, err := w.store.Status(ctx, s.address)
		cancel()
		if err == nil && status.Leader == status.Header.MemberId {
			return s
		}
	}
	return w.etcd[0]
}
