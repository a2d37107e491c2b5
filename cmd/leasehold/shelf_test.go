package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// shelf is a control plane that keeps gateways in memory, and says of what workers
// made of them what it is told to. All of its replicas share it.
type shelf struct {
	leaseholdv1.UnimplementedGatewayServiceServer

	// glances are what GetGateway says of a gateway that there is, one after the other
	// and the last for ever.
	glances map[string][]glance
	// listed is called when gateways were listed, if it is not nil.
	listed func()
	// undeleted is what a delete that is done is answered with, if it is not nil.
	undeleted error
	// silent leaves out reflection, so that nothing can be asked of what it knows.
	silent bool

	mu       sync.Mutex
	stored   map[string]*leaseholdv1.Gateway // guarded by mu
	revision int64                           // guarded by mu
	asked    []string                        // guarded by mu; the writes that were asked for
	seen     map[string]int                  // guarded by mu; glances that were used up
}

// glance is what GetGateway says once.
type glance struct {
	status *leaseholdv1.GatewayStatus
	// before is called first, if it is not nil.
	before func(context.Context)
	err    error
}

// newShelf returns a shelf with gateways that have this label.
func newShelf(label string, names ...string) *shelf {
	s := &shelf{stored: map[string]*leaseholdv1.Gateway{}, seen: map[string]int{}, glances: map[string][]glance{}}
	for _, name := range names {
		s.put(&leaseholdv1.Gateway{Name: "gateways/" + name, Labels: map[string]string{"team": label}, Upstreams: []*leaseholdv1.Upstream{{
			Name: "u", Url: "http://127.0.0.1:1/mcp", Transport: leaseholdv1.Transport_TRANSPORT_STREAMABLE_HTTP,
		}}})
	}
	return s
}

// manifestOf is how a file has the gateway that newShelf makes.
func manifestOf(name, label string) string {
	return fmt.Sprintf("---\nname: %q\nlabels: {team: %q}\nupstreams: [{name: u, url: http://127.0.0.1:1/mcp}]\n", name, label)
}

func (s *shelf) put(gateway *leaseholdv1.Gateway) *leaseholdv1.Gateway {
	s.revision++
	kept := proto.CloneOf(gateway)
	kept.Etag = fmt.Sprintf("r%d", s.revision)
	s.stored[kept.GetName()] = kept
	return kept
}

// change changes a gateway as another operator does.
func (s *shelf) change(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	other := proto.CloneOf(s.stored[name])
	other.Description = "somebody else's"
	s.put(other)
}

// remove deletes a gateway as another operator does.
func (s *shelf) remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.stored, name)
}

func (s *shelf) note(format string, args ...any) {
	s.asked = append(s.asked, fmt.Sprintf(format, args...))
}

func (s *shelf) writes() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.asked, ", ")
}

func (s *shelf) GetGateway(ctx context.Context, request *leaseholdv1.GetGatewayRequest) (*leaseholdv1.GetGatewayResponse, error) {
	s.mu.Lock()
	name := request.GetName()
	found, ok := s.stored[name]
	if !ok {
		s.mu.Unlock()
		return nil, status.Error(codes.NotFound, "no such gateway")
	}
	answer := proto.CloneOf(found)
	var now glance
	if looks := s.glances[name]; len(looks) > 0 {
		now = looks[min(s.seen[name], len(looks)-1)]
	}
	s.seen[name]++
	s.mu.Unlock()
	if now.before != nil {
		now.before(ctx)
	}
	answer.Status = now.status
	return &leaseholdv1.GetGatewayResponse{Gateway: answer}, now.err
}

// ListGateways returns one gateway a page, after a page with none.
func (s *shelf) ListGateways(_ context.Context, request *leaseholdv1.ListGatewaysRequest) (*leaseholdv1.ListGatewaysResponse, error) {
	response, err := s.page(request)
	if s.listed != nil && err == nil && response.GetNextPageToken() == "" {
		s.listed()
	}
	return response, err
}

func (s *shelf) page(request *leaseholdv1.ListGatewaysRequest) (*leaseholdv1.ListGatewaysResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, name := range slices.Sorted(maps.Keys(s.stored)) {
		if request.GetFilter() == "" || request.GetFilter() == "labels.team = "+s.stored[name].GetLabels()["team"] {
			names = append(names, name)
		}
	}
	at := -1
	if token := request.GetPageToken(); token != "" {
		if _, err := fmt.Sscan(token, &at); err != nil {
			return nil, err
		}
	}
	response := &leaseholdv1.ListGatewaysResponse{}
	if at >= 0 && at < len(names) {
		response.Gateways = []*leaseholdv1.Gateway{proto.CloneOf(s.stored[names[at]])}
	}
	if at+1 < len(names) {
		response.NextPageToken = fmt.Sprint(at + 1)
	}
	return response, nil
}

func (s *shelf) CreateGateway(_ context.Context, request *leaseholdv1.CreateGatewayRequest) (*leaseholdv1.CreateGatewayResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if request.GetValidateOnly() {
		return &leaseholdv1.CreateGatewayResponse{Gateway: request.GetGateway()}, nil
	}
	s.note("create %s", request.GetGateway().GetName())
	return &leaseholdv1.CreateGatewayResponse{Gateway: s.put(request.GetGateway())}, nil
}

func (s *shelf) UpdateGateway(_ context.Context, request *leaseholdv1.UpdateGatewayRequest) (*leaseholdv1.UpdateGatewayResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if strings.Contains(request.GetGateway().GetDescription(), "bad") {
		return nil, status.Error(codes.InvalidArgument, "the description is bad")
	}
	if request.GetValidateOnly() {
		return &leaseholdv1.UpdateGatewayResponse{Gateway: request.GetGateway()}, nil
	}
	s.note("update %s", request.GetGateway().GetName())
	return &leaseholdv1.UpdateGatewayResponse{Gateway: s.put(request.GetGateway())}, nil
}

func (s *shelf) DeleteGateway(_ context.Context, request *leaseholdv1.DeleteGatewayRequest) (*leaseholdv1.DeleteGatewayResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	stored, ok := s.stored[request.GetName()]
	switch {
	case !ok:
		return nil, status.Error(codes.NotFound, "no such gateway")
	case request.GetEtag() != "" && request.GetEtag() != stored.GetEtag():
		return nil, status.Error(codes.Aborted, "gateway has changed: etag does not match")
	}
	wait := short(request.GetWait().String(), "WAIT_")
	if request.GetWaitTimeout() != nil {
		wait += fmt.Sprintf(" within %ds", int(request.GetWaitTimeout().AsDuration().Seconds()+0.5))
	}
	s.note("delete %s (%s)", request.GetName(), wait)
	delete(s.stored, request.GetName())
	return &leaseholdv1.DeleteGatewayResponse{}, s.undeleted
}

func (s *shelf) replica(t *testing.T) (addr string, kill func()) {
	t.Helper()
	return serveScripted(t, func(server *grpc.Server) {
		leaseholdv1.RegisterGatewayServiceServer(server, s)
		if !s.silent {
			reflection.Register(server)
		}
	})
}

// run runs an operator's verb against one replica.
func (s *shelf) run(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	addr, _ := s.replica(t)
	return call(t, stdin, append(args, "--control", addr)...)
}

// States of definitions at workers.
const (
	awaited     = leaseholdv1.ApplyState_APPLY_STATE_PENDING
	accepted    = leaseholdv1.ApplyState_APPLY_STATE_APPLIED
	refused     = leaseholdv1.ApplyState_APPLY_STATE_REJECTED
	quarantined = leaseholdv1.ApplyState_APPLY_STATE_QUARANTINED
)

// at makes a glance of what the workers A, B and so on made of a definition.
func at(states ...leaseholdv1.ApplyState) glance {
	now := &leaseholdv1.GatewayStatus{Revision: 12, WorkersTotal: int32(len(states))}
	for i, state := range states {
		worker := &leaseholdv1.GatewayWorker{Worker: "workers/" + []string{workerA, workerB}[i], State: state, Revision: 12}
		switch state {
		case awaited:
			worker.Revision = 0
		case accepted:
			now.WorkersApplied++
		case refused:
			worker.Revision, worker.Error = 7, &leaseholdv1.ApplyError{Field: "upstreams[0].tls.ca_file", Reason: "no such file"}
		case quarantined:
			worker.Revision, worker.Error = 7, &leaseholdv1.ApplyError{Reason: "panic: \x1b[2J"}
		}
		now.Workers = append(now.Workers, worker)
	}
	return glance{status: now}
}
