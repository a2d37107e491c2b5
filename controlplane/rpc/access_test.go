package rpc

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/leasehold/leasehold/controlplane/publish"
	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// certified is a caller with a certificate.
type certified struct{ role, name string }

func (certified) AuthType() string { return "test" }
func (c certified) Role() string   { return c.role }
func (c certified) Name() string   { return c.name }

// from is the context of a call by c.
func (c certified) from(t *testing.T) context.Context {
	return peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, AuthInfo: c})
}

// registered is a store with one worker.
type registered struct {
	Store
	id, name string
	err      error
	asked    int
}

func (r *registered) Certificate(_ context.Context, id string) (string, error) {
	r.asked++
	switch {
	case r.err != nil:
		return "", r.err
	case id != r.id:
		return "", session.ErrCondemned
	}
	return r.name, nil
}

const someID, otherID = "0123456789abcdef", "fedcba9876543210"

func TestEveryMethodHasARuleAndNoRuleIsForNothing(t *testing.T) {
	server := NewServer(Config{Audit: auditLog(t), Hub: publish.NewHub(nil, hclog.NewNullLogger()), Logger: hclog.NewNullLogger()})
	methods := map[string]bool{}
	for service, info := range server.GRPC().GetServiceInfo() {
		for _, method := range info.Methods {
			name := "/" + service + "/" + method.Name
			methods[name] = true
			if _, ok := rules[name]; !ok {
				t.Errorf("%s has no rule: say who may call it", name)
			}
		}
	}
	for name := range rules {
		if !methods[name] {
			t.Errorf("the rule for %s is for no method that there is", name)
		}
	}
}

// TestEveryRequestThatNamesItsWorkerIsChecked looks for the ways in which requests
// of workers say who they act for.
func TestEveryRequestThatNamesItsWorkerIsChecked(t *testing.T) {
	service := leaseholdv1.File_leasehold_v1_control_proto.Services().ByName("ControlService")
	for i := range service.Methods().Len() {
		method := service.Methods().Get(i)
		name := "/" + string(service.FullName()) + "/" + string(method.Name())
		names := method.Input().Fields().ByName("worker") != nil || recordField(method.Input()) != nil
		if checked := rules[name].acts != nil; names != checked && name != leaseholdv1.ControlService_Register_FullMethodName {
			t.Errorf("%s: its request names a worker: %v; that is checked: %v", name, names, checked)
		}
	}
}

func recordField(m protoreflect.MessageDescriptor) protoreflect.FieldDescriptor {
	for i := range m.Fields().Len() {
		if f := m.Fields().Get(i); f.Message() != nil && f.Message().Name() == "SessionRecord" {
			return f
		}
	}
	return nil
}

func TestWhatIsNotAllowedIsRefused(t *testing.T) {
	worker, operator := certified{roleWorker, "w"}, certified{roleOperator, "o"}
	save := func(id string) any {
		return &leaseholdv1.SaveRequest{Record: &leaseholdv1.SessionRecord{Worker: id}}
	}
	const (
		renewMethod = leaseholdv1.ControlService_Renew_FullMethodName
		saveMethod  = leaseholdv1.ControlService_Save_FullMethodName
		getMethod   = leaseholdv1.GatewayService_GetGateway_FullMethodName
	)
	for name, c := range map[string]struct {
		ctx     context.Context
		method  string
		request any
		code    codes.Code
	}{
		"its own":                          {worker.from(t), renewMethod, &leaseholdv1.RenewRequest{Worker: someID}, codes.OK},
		"its own record":                   {worker.from(t), saveMethod, save(someID), codes.OK},
		"an operator":                      {operator.from(t), getMethod, &leaseholdv1.GetGatewayRequest{}, codes.OK},
		"another's":                        {certified{roleWorker, "v"}.from(t), renewMethod, &leaseholdv1.RenewRequest{Worker: someID}, codes.PermissionDenied},
		"another's record":                 {certified{roleWorker, "v"}.from(t), saveMethod, save(someID), codes.PermissionDenied},
		"of nobody that is known":          {worker.from(t), renewMethod, &leaseholdv1.RenewRequest{Worker: otherID}, codes.FailedPrecondition},
		"of no worker, for the handler":    {worker.from(t), renewMethod, &leaseholdv1.RenewRequest{Worker: "x"}, codes.OK},
		"a request of another kind":        {worker.from(t), renewMethod, &leaseholdv1.GetGatewayRequest{}, codes.PermissionDenied},
		"a worker in an operator's place":  {worker.from(t), getMethod, &leaseholdv1.GetGatewayRequest{}, codes.PermissionDenied},
		"an operator in a worker's place":  {operator.from(t), renewMethod, &leaseholdv1.RenewRequest{Worker: someID}, codes.PermissionDenied},
		"a role that there is not":         {certified{"", ""}.from(t), getMethod, &leaseholdv1.GetGatewayRequest{}, codes.PermissionDenied},
		"a method without a rule":          {operator.from(t), "/leasehold.v1.GatewayService/Burn", nil, codes.PermissionDenied},
		"a connection without certificate": {peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{}}), getMethod, nil, codes.PermissionDenied},
		"no connection":                    {t.Context(), getMethod, nil, codes.PermissionDenied},
	} {
		a := newAccess(&registered{id: someID, name: "w"}, hclog.NewNullLogger())
		handled := false
		_, err := a.unary(c.ctx, c.request, &grpc.UnaryServerInfo{FullMethod: c.method}, func(context.Context, any) (any, error) {
			handled = true
			return nil, nil
		})
		if status.Code(err) != c.code || handled != (c.code == codes.OK) {
			t.Errorf("%s: got %v, handled %v; want %v", name, err, handled, c.code)
		}
	}
}

func TestTheNameBehindAWorkerIsReadOnceUnlessThatFails(t *testing.T) {
	s := &registered{id: someID, name: "w", err: store.ErrUnavailable}
	a := newAccess(s, hclog.NewNullLogger())
	renew := func() error {
		_, err := a.unary(certified{roleWorker, "w"}.from(t), &leaseholdv1.RenewRequest{Worker: someID},
			&grpc.UnaryServerInfo{FullMethod: leaseholdv1.ControlService_Renew_FullMethodName},
			func(context.Context, any) (any, error) { return nil, nil })
		return err
	}
	if err := renew(); status.Code(err) != codes.Unavailable {
		t.Errorf("while the store is away: got %v, want UNAVAILABLE", err)
	}
	s.err = nil
	for range 3 {
		if err := renew(); err != nil {
			t.Error(err)
		}
	}
	if s.asked != 2 {
		t.Errorf("the store was asked %d times, want twice: once in vain", s.asked)
	}
}

// heard is a stream on which requests come in.
type heard struct {
	grpc.ServerStream
	ctx      context.Context
	requests []*leaseholdv1.WatchRequest
}

func (h *heard) Context() context.Context { return h.ctx }

func (h *heard) RecvMsg(m any) error {
	request := m.(*leaseholdv1.WatchRequest)
	request.Worker = h.requests[0].GetWorker()
	h.requests = h.requests[1:]
	return nil
}

func TestEachMessageOfAStreamIsChecked(t *testing.T) {
	var log strings.Builder
	a := newAccess(&registered{id: someID, name: "w"}, hclog.New(&hclog.LoggerOptions{Output: &log}))
	stream := &heard{ctx: certified{roleWorker, "w"}.from(t), requests: []*leaseholdv1.WatchRequest{{Worker: someID}, {}, {Worker: otherID}}}
	received := 0
	err := a.stream(nil, stream, &grpc.StreamServerInfo{FullMethod: leaseholdv1.ControlService_Watch_FullMethodName},
		func(_ any, stream grpc.ServerStream) error {
			for stream.RecvMsg(&leaseholdv1.WatchRequest{}) == nil {
				received++
			}
			return errors.New("what the handler makes of it")
		})
	if received != 2 || status.Code(err) != codes.FailedPrecondition {
		t.Errorf("received %d messages, then %v; want 2, and that the third's worker is over", received, err)
	}
}

func TestWithoutCredentialsEverybodyMayCall(t *testing.T) {
	_, client := serveStore(t, &endless{})
	stream, err := client.WatchGateways(t.Context(), &leaseholdv1.WatchGatewaysRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		t.Error(err)
	}
}

func TestACallerWhoIsRefusedAgainAndAgainDoesNotFillTheLog(t *testing.T) {
	var out strings.Builder
	a := newAccess(&registered{}, hclog.New(&hclog.LoggerOptions{Output: &out, Level: hclog.Warn}))
	ctx := certified{roleWorker, "w"}.from(t)
	info := &grpc.UnaryServerInfo{FullMethod: leaseholdv1.GatewayService_GetGateway_FullMethodName}
	for range 10 * refusedAtOnce {
		if _, err := a.unary(ctx, nil, info, nil); status.Code(err) != codes.PermissionDenied {
			t.Fatalf("got %v, want %v", err, codes.PermissionDenied)
		}
	}
	if n := strings.Count(out.String(), "call was refused"); n < 1 || n > 2*refusedAtOnce {
		t.Errorf("%d lines were logged, want at least one and hardly more than %d", n, refusedAtOnce)
	}
}
