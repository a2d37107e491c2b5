package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// maxPeers bounds the living workers that are recorded.
const maxPeers = 1000

// never is when a keeper of the list looks again if nothing happens.
const never = time.Hour

// keepPeers keeps the list of peers of an incarnation, here and as it is recorded,
// until ctx ends.
func (c *Client) keepPeers(ctx context.Context, incarnation int64) {
	k := keeper{Client: c, self: peer{c.cfg.Worker, incarnation}, recorded: map[peer]bool{}, absent: make(map[peer]time.Duration)}
	timer := time.NewTimer(never)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.peers.told:
		case <-timer.C:
		}
		timer.Reset(k.turn(ctx))
	}
}

// keeper keeps the list of peers of one incarnation. It asks for one thing at a time,
// and each request says all that is true by then; so it needs to repeat none.
type keeper struct {
	*Client
	self     peer
	number   int64
	recorded map[peer]bool          // what is recorded; nil if that is not known
	absent   map[peer]time.Duration // since when members of the list have not been seen alive
	failures int                    // in a row
	crowded  bool                   // there are too many workers to record
}

// turn brings the list in line with who is alive, and returns when to look again.
func (k *keeper) turn(ctx context.Context) time.Duration {
	living, known := k.peers.living(k.self)
	if !known || k.tooMany(len(living)) {
		return never
	}
	k.peers.grow(living)
	listed, _, _ := k.peers.list()
	k.look(listed, living)
	terms := k.authority.state.Load().terms
	switch {
	case k.recorded != nil && sameKeys(k.recorded, listed) && sameKeys(listed, living):
		return never
	case !k.authority.Contact():
		return terms.ttl / 6 // as renewals go out
	}
	err := k.send(ctx, living)
	switch {
	case err == nil:
		k.failures = 0
		if sameKeys(k.recorded, living) {
			return never
		}
	case ctx.Err() != nil:
		return never
	default:
		if k.failures%20 == 0 {
			k.cfg.Logger.Warn("the list of the other workers is not recorded", "error", err)
		}
		k.failures++
		if !errors.Is(err, errVerdict) {
			return pauseFor(k.failures)
		}
	}
	return terms.ttl*3/4 + rand.N(terms.ttl/2)
}

// tooMany reports whether there are more workers than can be recorded. The list then
// stays as it is: whoever is not on it cannot take over.
func (k *keeper) tooMany(n int) bool {
	crowded := n > maxPeers
	if crowded && !k.crowded {
		k.cfg.Logger.Error("the list of the other workers is not recorded: there are too many", "workers", n, "bound", maxPeers)
	}
	k.crowded = crowded
	return crowded
}

// look notes who of the list has not been seen alive, and since when.
func (k *keeper) look(listed, living map[peer]string) {
	now := k.authority.now()
	for one := range listed {
		if _, alive := living[one]; alive {
			delete(k.absent, one)
		} else if _, ok := k.absent[one]; !ok {
			k.absent[one] = now
		}
	}
	maps.DeleteFunc(k.absent, func(one peer, _ time.Duration) bool {
		_, on := listed[one]
		return !on
	})
}

// errVerdict says that a request was answered, and not carried out.
var errVerdict = errors.New("refused")

// send has the list recorded: who is alive, and of those before, who may come back.
func (k *keeper) send(ctx context.Context, living map[peer]string) error {
	if len(living) == 0 {
		k.peers.alone()
	}
	k.number++
	k.recorded = nil
	request := &leaseholdv1.RecordPeersRequest{Worker: k.self.worker, Incarnation: k.self.incarnation, Number: k.number, Gone: k.gone()}
	for one := range living {
		request.Peers = append(request.Peers, one.message())
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	r := k.pick()
	k.calls.WithLabelValues("RecordPeers").Inc()
	resp, err := r.api.RecordPeers(ctx, request)
	switch code := status.Code(err); {
	case err == nil:
		k.hear()
	case code == codes.Unimplemented:
		return fmt.Errorf("%w: this control plane keeps no such list, so that workers do not serve on without it", errVerdict)
	case verdictOf(err) != nil:
		k.hear()
		return fmt.Errorf("%w: %w", errVerdict, err)
	default:
		k.next(r)
		return err
	}
	if len(request.Gone) > 0 && !k.authority.Power(k.self.incarnation) {
		return errors.New("power was lost meanwhile")
	}
	var recorded []peer
	k.recorded = make(map[peer]bool, len(resp.GetPeers()))
	for _, m := range resp.GetPeers() {
		one := peer{m.GetWorker(), m.GetIncarnation()}
		recorded = append(recorded, one)
		k.recorded[one] = true
	}
	k.peers.settle(recorded)
	k.cfg.Logger.Debug("the list of the other workers is recorded", "alive", len(living), "listed", len(recorded))
	return nil
}

// gone returns who has been dead for so long that it is to be condemned, as it is by
// whoever takes over its sessions; it may have none, and would be on the list for
// ever. This worker must have seen all the time that it is dead, and that it has not
// come back, as everybody does soon after an outage.
func (k *keeper) gone() []*leaseholdv1.Peer {
	if !k.authority.Power(k.self.incarnation) {
		return nil
	}
	t := k.authority.state.Load()
	seen := max(t.since, k.peers.sightedSince())
	var gone []*leaseholdv1.Peer
	for one, since := range k.absent {
		if k.authority.now()-max(since, seen) > 2*t.terms.hold() && len(gone) < maxPeers {
			gone = append(gone, one.message())
		}
	}
	return gone
}

func (p peer) message() *leaseholdv1.Peer {
	return &leaseholdv1.Peer{Worker: p.worker, Incarnation: p.incarnation}
}

func sameKeys[V, W any](a map[peer]V, b map[peer]W) bool {
	if len(a) != len(b) {
		return false
	}
	for one := range a {
		if _, ok := b[one]; !ok {
			return false
		}
	}
	return true
}
