package forward

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// A connection that breaks says so; one whose packets vanish, or whose other end
// is stopped, does not, and requests on it would wait for as long as gRPC and the
// owner's lease let them. So a worker that has requests of this one and says
// nothing is asked, over the same connection, whether it is there.
//
//	heard ── quiet for a look, with requests ──▶ asked ── silent for four looks ──▶ given up
//	  ▲                                            │
//	  └──────────── anything it says ──────────────┘
//
// What is in flight is told of a silence within 3 s.
const (
	// lookEvery is how often workers that have requests are looked at, and for how
	// long one has said nothing when it is asked.
	lookEvery = 500 * time.Millisecond
	// silentLooks is for how many looks a worker that was asked may be silent. To
	// answer it has to turn its serving loop once, so that these 2 s are what an
	// owner with too much to do may be behind by; and that only if it gets nothing
	// else out either, since any message of any stream is an answer. One that is
	// further behind fails its own probes too, and is about to lose its lease.
	//
	// They are looks and not a time, so that this worker's own pauses do not count:
	// when it goes on, there are looks enough to read what came meanwhile.
	silentLooks = 4
)

// errSilent is why a connection was given up.
var errSilent = fmt.Errorf("the worker said nothing for %v, not even when it was asked", silentLooks*lookEvery)

// doubt is whether a silent worker is there. Only Client.Run has to do with it.
type doubt struct {
	sign   int64              // the last sign of life when it arose
	looks  int                // since then
	asking atomic.Bool        // a probe is under way
	cancel context.CancelFunc // of the last probe
}

// sees notes a sign of life: anything that came from the other worker.
func (p *peer) sees() { p.sign.Store(int64(time.Since(started))) }

// look gives the worker up if it has requests and was silent for too long. If it
// is to be asked, look returns the question.
func (p *peer) look(ctx context.Context, now time.Time) (ask func()) {
	sign := p.sign.Load()
	calm := p.carries.Load() == 0 || now.Sub(started)-time.Duration(sign) < lookEvery
	if p.doubt != nil && (calm || p.doubt.sign != sign) {
		p.settle()
	}
	if calm {
		return nil
	}
	if p.doubt == nil {
		p.doubt = &doubt{sign: sign}
	}
	d := p.doubt
	if d.looks++; d.looks > silentLooks {
		p.settle()
		p.giveUp()
		return nil
	}
	if d.asking.Swap(true) {
		return nil
	}
	ctx, d.cancel = context.WithCancel(ctx)
	cancel := d.cancel
	return func() {
		defer d.asking.Store(false)
		defer cancel()
		p.ask(ctx)
	}
}

// settle ends a doubt.
func (p *peer) settle() {
	p.doubt.cancel()
	p.doubt = nil
}

// ask probes the other worker. One that does not know what that is, is there. Any
// other failure shows nothing: it is asked again at the next look.
func (p *peer) ask(ctx context.Context) {
	_, err := leaseholdv1.NewPeerServiceClient(p.conn).Probe(ctx, &leaseholdv1.ProbeRequest{})
	if err == nil || status.Code(err) == codes.Unimplemented {
		p.sees()
	}
}

// giveUp closes the connections to a silent worker, which ends every stream there
// is as its death would. The next request connects anew.
func (p *peer) giveUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.givenUp.Add(1)
	for _, l := range p.idle {
		l.cancel()
	}
	p.idle = nil
	for _, socket := range p.sockets {
		socket.Close()
	}
	p.sockets = nil
}

// recv receives a message of the answer.
func (l *lane) recv() (*leaseholdv1.ForwardResponse, error) {
	message, err := l.stream.Recv()
	if err != nil {
		if l.peer.givenUp.Load() != l.givenUp {
			err = fmt.Errorf("%w: %w", errSilent, err)
		}
		return nil, err
	}
	l.peer.sees()
	return message, nil
}
