package etcd

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/balancer"
	"google.golang.org/grpc/balancer/endpointsharding"
	"google.golang.org/grpc/balancer/pickfirst"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

const (
	balancerName = "leasehold_etcd"
	// balancerConfig asks for the balancer in the place of the etcd client's own.
	balancerConfig = `{"loadBalancingConfig":[{"` + balancerName + `":{}}]}`
	// silence is how long a request must have waited in vain before it counts
	// against the member that it was sent to.
	silence = 200 * time.Millisecond
	// avoidFor is how long a member that was silent is left alone. Then one
	// request tries it.
	avoidFor = 15 * time.Second
)

func init() { balancer.Register(balancerBuilder{}) } // gRPC takes no later registration

// balancerBuilder makes the balancer of a connection to etcd. It takes the
// members in turn, as the etcd client's own does, but leaves out those that do
// not answer: a member that is stopped keeps its connections, on which a request
// would wait until its deadline. So a request that is repeated goes elsewhere.
type balancerBuilder struct{}

// Name implements balancer.Builder.
func (balancerBuilder) Name() string { return balancerName }

// Build implements balancer.Builder.
func (balancerBuilder) Build(cc balancer.ClientConn, opts balancer.BuildOptions) balancer.Balancer {
	t := &turns{ClientConn: cc, members: map[string]*member{}}
	t.Balancer = endpointsharding.NewBalancer(t, opts, balancer.Get(pickfirst.Name).Build, endpointsharding.Options{})
	return t
}

// turns is the balancer of one connection. What it embeds connects to the members.
type turns struct {
	balancer.ClientConn
	balancer.Balancer

	mu      sync.Mutex         // guards all below
	members map[string]*member // by address
	next    int
}

// member is what requests have shown of one member of etcd.
type member struct {
	// silent is when it was last found silent; zero if it answered since.
	silent time.Time
}

// UpdateClientConnState implements balancer.Balancer.
func (t *turns) UpdateClientConnState(s balancer.ClientConnState) error {
	return t.Balancer.UpdateClientConnState(balancer.ClientConnState{ResolverState: s.ResolverState})
}

// UpdateState is told of each change of the connections, and says who picks.
func (t *turns) UpdateState(s balancer.State) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := &picker{turns: t}
	for _, child := range endpointsharding.ChildStatesFromPicker(s.Picker) {
		if child.State.ConnectivityState == connectivity.Ready {
			address := child.Endpoint.Addresses[0].Addr
			if t.members[address] == nil {
				t.members[address] = &member{}
			}
			p.ready = append(p.ready, choice{address: address, member: t.members[address], picker: child.State.Picker})
		}
	}
	if len(p.ready) > 0 {
		slices.SortFunc(p.ready, func(a, b choice) int { return cmp.Compare(a.address, b.address) })
		s.Picker = p
	}
	t.ClientConn.UpdateState(s)
}

// picker takes turns between the members that are connected.
type picker struct {
	turns *turns
	ready []choice
}

type choice struct {
	address string
	member  *member
	picker  balancer.Picker
}

// Pick implements balancer.Picker.
func (p *picker) Pick(info balancer.PickInfo) (balancer.PickResult, error) {
	began := time.Now()
	c := p.choose(began)
	result, err := c.picker.Pick(info)
	if err != nil {
		return result, err
	}
	done := result.Done
	result.Done = func(d balancer.DoneInfo) {
		p.heard(c.member, d, began)
		if done != nil {
			done(d)
		}
	}
	return result, nil
}

// choose returns the next member that is not avoided, or the one that has been
// avoided for longest. Of the requests that come when a member's time is over,
// one tries it.
func (p *picker) choose(now time.Time) choice {
	p.turns.mu.Lock()
	defer p.turns.mu.Unlock()
	p.turns.next++
	oldest := p.ready[p.turns.next%len(p.ready)]
	for i := range p.ready {
		c := p.ready[(p.turns.next+i)%len(p.ready)]
		if c.member.silent.IsZero() {
			return c
		}
		if now.Sub(c.member.silent) >= avoidFor {
			c.member.silent = now
			return c
		}
		if c.member.silent.Before(oldest.member.silent) {
			oldest = c
		}
	}
	return oldest
}

// heard notes whether a request was answered.
func (p *picker) heard(m *member, d balancer.DoneInfo, began time.Time) {
	p.turns.mu.Lock()
	defer p.turns.mu.Unlock()
	switch {
	case d.BytesReceived:
		m.silent = time.Time{}
	case timedOut(d.Err) && time.Since(began) >= silence:
		m.silent = time.Now()
	}
}

func timedOut(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded
}
