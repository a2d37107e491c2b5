package dataplane_test

import (
	"bytes"
	"cmp"
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// plane is a control plane in memory, with the rules of the real one but no
// etcd, for tests of what a worker does. The real one is tested with workers in
// test/e2e: the data plane must not know it.
type plane struct {
	leaseholdv1.UnimplementedControlServiceServer
	address string
	server  *grpc.Server

	mu         sync.Mutex // guards what follows
	revision   int64
	gateways   map[string]*leaseholdv1.Gateway
	kept       []string // names of gateways that it cannot tell
	members    map[string]*leaseholdv1.Member
	records    map[string]*stored
	watchers   map[chan struct{}]bool
	calls      map[string]int
	saveErr    error
	resolveErr bool // questions for records get no answer
	claimErr   error
	away       bool            // renewals and ends get no answer
	mute       map[string]bool // workers that are told nothing
	// afterReclaim decides what is answered to a reclaim that was carried out.
	afterReclaim func() error
	endings      []*leaseholdv1.Ending
	ack          *leaseholdv1.WatchRequest // the newest of any worker
	leaveErr     error                     // what Leave is answered with, which is not carried out then
	leaves       []*leaseholdv1.LeaveRequest
	newest       map[string]int64 // incarnation of each worker; 0 if it left
	dark         bool             // no call gets an answer, and nobody is told anything
	maxOutage    time.Duration    // for how long workers may serve on; 0 if they may not
	lists        map[string]map[string]int64
	renewed      time.Time     // when the last renewal came
	ttl          time.Duration // of leases
	ring         *leaseholdv1.KeyRing
	// beforeHandOver is asked before a hand-over is carried out, and afterHandOver what
	// is answered then; both may be nil.
	beforeHandOver, afterHandOver func(*leaseholdv1.HandOverRequest) error
}

type stored struct {
	record   *leaseholdv1.SessionRecord
	revision int64
}

const testTTL = 3 * time.Second

func startPlane(tb testing.TB) *plane {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &plane{
		address: l.Addr().String(), revision: 1, lists: map[string]map[string]int64{},
		gateways: map[string]*leaseholdv1.Gateway{}, members: map[string]*leaseholdv1.Member{}, records: map[string]*stored{},
		watchers: map[chan struct{}]bool{}, calls: map[string]int{}, newest: map[string]int64{}, ttl: testTTL,
	}
	p.ring = &leaseholdv1.KeyRing{Keys: []*leaseholdv1.Key{sessionKey(1)}, Revision: 1}
	p.server = grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, r any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			if p.isDark() {
				return nil, refusal(codes.Unavailable, "AWAY")
			}
			return handle(ctx, r)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			if p.isDark() {
				return refusal(codes.Unavailable, "AWAY")
			}
			return handle(srv, stream)
		}))
	leaseholdv1.RegisterControlServiceServer(p.server, p)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.server.Serve(l)
	}()
	tb.Cleanup(func() {
		p.server.Stop()
		<-done
	})
	return p
}

func (p *plane) isDark() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dark
}

// change runs f under the lock and tells the watchers.
func (p *plane) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.revision++
	f()
	for w := range p.watchers {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

func (p *plane) setGateway(id, url string, policy *leaseholdv1.SessionPolicy) {
	p.change(func() {
		p.gateways["gateways/"+id] = &leaseholdv1.Gateway{
			Name: "gateways/" + id, Session: policy, Status: &leaseholdv1.GatewayStatus{Revision: p.revision},
			Upstreams: []*leaseholdv1.Upstream{{Name: "up", Url: url}},
		}
	})
}

// sessionKey returns a key of the ring that follows from n.
func sessionKey(n byte) *leaseholdv1.Key {
	return &leaseholdv1.Key{Id: []byte{'k', 'e', 'y', n}, Secret: bytes.Repeat([]byte{n}, 32)}
}

// setRing makes the numbered keys the ring, of which the last one seals.
func (p *plane) setRing(numbers ...byte) {
	p.change(func() {
		p.ring = &leaseholdv1.KeyRing{Revision: p.revision}
		for _, n := range numbers {
			p.ring.Keys = append(p.ring.Keys, sessionKey(n))
		}
	})
}

func (p *plane) GetKeyRingRevision(context.Context, *leaseholdv1.GetKeyRingRevisionRequest) (*leaseholdv1.GetKeyRingRevisionResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls["GetKeyRingRevision"]++
	return &leaseholdv1.GetKeyRingRevisionResponse{Revision: p.ring.Revision}, nil
}

func (p *plane) deleteGateway(id string) {
	p.change(func() { delete(p.gateways, "gateways/"+id) })
}

// kill makes a worker dead, as the end of its lease does.
func (p *plane) kill(worker string) {
	p.change(func() { delete(p.members, worker) })
}

func (p *plane) count(method string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls[method]
}

// tombstones returns the reasons of the sessions that ended.
func (p *plane) tombstones() (reasons []leaseholdv1.EndReason) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.records {
		if s.record.GetEnd() != nil {
			reasons = append(reasons, s.record.GetEnd().GetReason())
		}
	}
	return reasons
}

func (p *plane) live() (records []*leaseholdv1.SessionRecord) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.records {
		if s.record.GetEnd() == nil {
			records = append(records, proto.CloneOf(s.record))
		}
	}
	return records
}

func refusal(code codes.Code, reason string) error {
	st, _ := status.New(code, reason).WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: "leasehold"})
	return st.Err()
}

func (p *plane) Register(_ context.Context, r *leaseholdv1.RegisterRequest) (*leaseholdv1.RegisterResponse, error) {
	var e int64
	p.change(func() {
		e = p.revision
		p.newest[r.GetWorker()] = e
		p.members[r.GetWorker()] = &leaseholdv1.Member{Worker: r.GetWorker(), Incarnation: e, Info: r.GetInfo()}
	})
	return &leaseholdv1.RegisterResponse{Incarnation: e, Lease: e, Ttl: durationpb.New(p.ttl), MaxOutage: durationpb.New(p.maxOutage)}, nil
}

func (p *plane) alive(worker string, incarnation int64) bool {
	m := p.members[worker]
	return m != nil && m.GetIncarnation() == incarnation
}

func (p *plane) Renew(_ context.Context, r *leaseholdv1.RenewRequest) (*leaseholdv1.RenewResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls["Renew"]++
	p.renewed = time.Now()
	if p.away {
		return nil, refusal(codes.Unavailable, "AWAY")
	}
	if !p.alive(r.GetWorker(), r.GetIncarnation()) {
		return nil, refusal(codes.NotFound, "LEASE_LOST")
	}
	return &leaseholdv1.RenewResponse{Ttl: durationpb.New(p.ttl), MaxOutage: durationpb.New(p.maxOutage)}, nil
}

func (p *plane) Readopt(context.Context, *leaseholdv1.ReadoptRequest) (*leaseholdv1.ReadoptResponse, error) {
	return nil, refusal(codes.FailedPrecondition, "CONDEMNED")
}

// RecordPeers keeps lists of those who may come back, where workers may serve on.
func (p *plane) RecordPeers(_ context.Context, r *leaseholdv1.RecordPeersRequest) (*leaseholdv1.RecordPeersResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.maxOutage == 0 {
		return nil, status.Error(codes.Unimplemented, "unknown method RecordPeers")
	}
	list := map[string]int64{}
	for worker, incarnation := range p.lists[r.GetWorker()] {
		if p.newest[worker] == incarnation {
			list[worker] = incarnation
		}
	}
	for _, one := range r.GetPeers() {
		list[one.GetWorker()] = one.GetIncarnation()
	}
	p.lists[r.GetWorker()] = list
	resp := &leaseholdv1.RecordPeersResponse{}
	for worker, incarnation := range list {
		resp.Peers = append(resp.Peers, &leaseholdv1.Peer{Worker: worker, Incarnation: incarnation})
	}
	return resp, nil
}

// know reports whether these workers are recorded to know each other, and nobody else.
func (p *plane) know(workers ...*worker) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range workers {
		if len(p.lists[one.id]) != len(workers)-1 {
			return false
		}
		for _, other := range workers {
			if other != one && p.lists[one.id][other.id] != p.newest[other.id] {
				return false
			}
		}
	}
	return true
}

func (p *plane) Leave(ctx context.Context, r *leaseholdv1.LeaveRequest) (*leaseholdv1.LeaveResponse, error) {
	p.mu.Lock()
	err := cmp.Or(p.leaveErr, ctx.Err()) // of an attempt that nobody waits for any more, nothing is carried out
	if err == nil {
		p.leaves = append(p.leaves, r)
		p.newest[r.GetWorker()] = 0
	}
	p.mu.Unlock()
	if err != nil {
		return nil, err
	}
	p.kill(r.GetWorker())
	return &leaseholdv1.LeaveResponse{}, nil
}

func (p *plane) Watch(stream leaseholdv1.ControlService_WatchServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	changed := make(chan struct{}, 1)
	changed <- struct{}{}
	go p.received(stream) // ends with the stream
	p.mu.Lock()
	p.calls["Watch"]++
	p.watchers[changed] = true
	p.mu.Unlock()
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case <-changed:
		}
		p.mu.Lock()
		if p.mute[first.GetWorker()] || p.dark {
			p.mu.Unlock()
			continue
		}
		state := &leaseholdv1.WatchResponse{Revision: p.revision, Complete: true, KeptGateways: p.kept, Members: &leaseholdv1.MemberList{}, Endings: &leaseholdv1.EndingList{Endings: p.endings},
			KeyRing: p.ring}
		for _, g := range p.gateways {
			state.Gateways = append(state.Gateways, g)
		}
		for _, m := range p.members {
			state.Members.Members = append(state.Members.Members, m)
		}
		p.mu.Unlock()
		if err := stream.Send(state); err != nil {
			return err
		}
	}
}

func (p *plane) Claim(_ context.Context, r *leaseholdv1.ClaimRequest) (*leaseholdv1.ClaimResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls["Claim"]++
	if p.claimErr != nil {
		return nil, p.claimErr
	}
	if p.records[r.GetSession()] != nil {
		return nil, refusal(codes.FailedPrecondition, "HELD")
	}
	p.revision++
	p.records[r.GetSession()] = &stored{r.GetRecord(), p.revision}
	return &leaseholdv1.ClaimResponse{Revision: p.revision}, nil
}

func (p *plane) Resolve(_ context.Context, r *leaseholdv1.ResolveRequest) (*leaseholdv1.ResolveResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls["Resolve"]++
	if p.resolveErr {
		return nil, refusal(codes.Unavailable, "AWAY")
	}
	s := p.records[r.GetSession()]
	if s == nil {
		return nil, refusal(codes.NotFound, "NO_RECORD")
	}
	resp := &leaseholdv1.ResolveResponse{Record: s.record, Revision: s.revision,
		OwnerSuperseded: p.newest[s.record.GetWorker()] != s.record.GetIncarnation()}
	if p.alive(s.record.GetWorker(), s.record.GetIncarnation()) {
		resp.OwnerAlive, resp.Owner = true, p.members[s.record.GetWorker()]
	}
	return resp, nil
}

func (p *plane) Reclaim(_ context.Context, r *leaseholdv1.ReclaimRequest) (*leaseholdv1.ReclaimResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls["Reclaim"]++
	s := p.records[r.GetSession()]
	if s != nil && s.record.GetWorker() == r.GetWorker() && s.record.GetIncarnation() == r.GetIncarnation() && p.afterReclaim != nil {
		return nil, p.afterReclaim()
	}
	switch {
	case s == nil || s.revision != r.GetRevision():
		return nil, refusal(codes.Aborted, "STALE")
	case p.alive(s.record.GetWorker(), s.record.GetIncarnation()):
		return nil, refusal(codes.FailedPrecondition, "OWNER_ALIVE")
	}
	next := proto.CloneOf(s.record)
	next.Worker, next.Incarnation = r.GetWorker(), r.GetIncarnation()
	next.Epoch++
	p.revision++
	*s = stored{next, p.revision}
	if p.afterReclaim != nil {
		return nil, p.afterReclaim()
	}
	return &leaseholdv1.ReclaimResponse{Record: next, Revision: p.revision}, nil
}

func (p *plane) Save(_ context.Context, r *leaseholdv1.SaveRequest) (*leaseholdv1.SaveResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls["Save"]++
	s := p.records[r.GetSession()]
	if p.saveErr != nil {
		return nil, p.saveErr
	}
	if s == nil || s.revision != r.GetRevision() {
		return nil, refusal(codes.Aborted, "STALE")
	}
	p.revision++
	*s = stored{r.GetRecord(), p.revision}
	return &leaseholdv1.SaveResponse{Revision: p.revision}, nil
}

// HandOver is without the lock while it asks beforeHandOver and afterHandOver.
func (p *plane) HandOver(_ context.Context, r *leaseholdv1.HandOverRequest) (*leaseholdv1.HandOverResponse, error) {
	if p.beforeHandOver != nil {
		if err := p.beforeHandOver(r); err != nil {
			return nil, err
		}
	}
	resp, err := p.handOver(r)
	if p.afterHandOver != nil && err == nil {
		err = p.afterHandOver(r)
	}
	return resp, err
}

func (p *plane) handOver(r *leaseholdv1.HandOverRequest) (*leaseholdv1.HandOverResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls["HandOver"]++
	s, to := p.records[r.GetSession()], r.GetTo()
	switch {
	case to.GetWorker() == r.GetWorker():
		return nil, status.Error(codes.InvalidArgument, "to.worker: must be another worker than the caller")
	case s == nil || s.record.GetEnd() != nil:
		return nil, refusal(codes.FailedPrecondition, "ENDED")
	case s.record.GetWorker() == to.GetWorker() && s.record.GetIncarnation() == to.GetIncarnation():
		return &leaseholdv1.HandOverResponse{Record: s.record, Revision: s.revision}, nil
	case s.revision != r.GetRevision():
		return nil, refusal(codes.Aborted, "STALE")
	case !p.alive(r.GetWorker(), r.GetIncarnation()):
		return nil, refusal(codes.FailedPrecondition, "NOT_ALIVE")
	case !p.alive(to.GetWorker(), to.GetIncarnation()):
		return nil, refusal(codes.FailedPrecondition, "TARGET_NOT_ALIVE")
	}
	next := proto.CloneOf(s.record)
	next.Worker, next.Incarnation = to.GetWorker(), to.GetIncarnation()
	next.Epoch++
	next.Events = append(next.Events, &leaseholdv1.SessionEvent{Type: leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_HANDED_OVER})
	for _, u := range next.GetUpstreams() {
		u.EventCursor = r.GetEventCursors()[u.GetUpstream()]
	}
	p.revision++
	*s = stored{next, p.revision}
	return &leaseholdv1.HandOverResponse{Record: next, Revision: p.revision}, nil
}

func (p *plane) SetDraining(_ context.Context, r *leaseholdv1.SetDrainingRequest) (*leaseholdv1.SetDrainingResponse, error) {
	p.mu.Lock()
	alive := p.alive(r.GetWorker(), r.GetIncarnation())
	p.mu.Unlock()
	if !alive {
		return nil, refusal(codes.FailedPrecondition, "NOT_ALIVE")
	}
	p.drain(r.GetWorker(), r.GetDraining())
	return &leaseholdv1.SetDrainingResponse{}, nil
}

// drain is an operator's wish that a worker drain, or do so no more.
func (p *plane) drain(worker string, draining bool) {
	p.change(func() {
		member := proto.CloneOf(p.members[worker])
		member.Info.Draining = draining
		p.members[worker] = member
	})
}

func (p *plane) End(_ context.Context, r *leaseholdv1.EndRequest) (*leaseholdv1.EndResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls["End"]++
	if p.away {
		return nil, refusal(codes.Unavailable, "AWAY")
	}
	s := p.records[r.GetSession()]
	if s == nil {
		s = &stored{record: &leaseholdv1.SessionRecord{}}
		p.records[r.GetSession()] = s
	}
	p.revision++
	next := proto.CloneOf(s.record)
	next.End = &leaseholdv1.SessionEnd{Reason: r.GetReason(), Time: timestamppb.Now()}
	*s = stored{next, p.revision}
	return &leaseholdv1.EndResponse{Revision: p.revision}, nil
}

// terminateAll is an operator's wish that every live session end.
func (p *plane) terminateAll() {
	p.change(func() {
		for digest, s := range p.records {
			if s.record.GetEnd() == nil {
				p.endings = append(p.endings, &leaseholdv1.Ending{Gateway: "g", Session: digest, Reason: leaseholdv1.EndReason_END_REASON_TERMINATED})
			}
		}
	})
}
