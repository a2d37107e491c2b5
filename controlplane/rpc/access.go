package rpc

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"github.com/leasehold/leasehold/controlplane/session"
)

// Caller is who makes a call, by the certificate of its connection.
type Caller interface {
	// Role is what the caller is: operator, worker, …
	Role() string
	// Name tells callers of one role apart.
	Name() string
}

// errForbidden says that a method is not for the caller.
var errForbidden = errors.New("the certificate's role may not call this")

const (
	// namesKept bounds the workers whose certificates' names are remembered.
	namesKept = 4096
	// refusedPerSecond bounds the lines that a caller who is refused again and again can
	// have logged, after refusedAtOnce.
	refusedPerSecond = 1
	refusedAtOnce    = 100
)

// access lets callers do what the rules say, and nothing else.
//
// A worker's id is random at each start, so no certificate can name it. Instead,
// the store keeps with a registration the name in the certificate that it was made
// with, for as long as it keeps the registration, and lets no other name register
// that id. So a worker acts for the ids that were registered by that name, and
// workers whose certificates have different names never act for each other. The
// name behind an id does not change, so each replica reads it once.
type access struct {
	store Store
	log   hclog.Logger
	names *lru.Cache[string, string] // by worker id
	pace  *rate.Limiter              // of lines about callers that were refused
}

func newAccess(store Store, log hclog.Logger) *access {
	names, err := lru.New[string, string](namesKept)
	if err != nil {
		panic(err) // of a size below 1 only
	}
	return &access{store: store, log: log, names: names, pace: rate.NewLimiter(refusedPerSecond, refusedAtOnce)}
}

func (a *access) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	rule, caller, err := a.admit(ctx, info.FullMethod)
	if err == nil {
		err = a.check(ctx, rule, caller, req)
	}
	if err != nil {
		return nil, a.refuse(ctx, info.FullMethod, caller, err)
	}
	return handle(context.WithValue(ctx, callerKey{}, caller), req)
}

func (a *access) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	rule, caller, err := a.admit(stream.Context(), info.FullMethod)
	if err != nil {
		return a.refuse(stream.Context(), info.FullMethod, caller, err)
	}
	if rule.acts == nil {
		return handle(srv, stream)
	}
	guarded := &checked{ServerStream: stream, check: func(m any) error { return a.check(stream.Context(), rule, caller, m) }}
	err = handle(srv, guarded)
	if cause := guarded.cause.Load(); cause != nil {
		err = a.refuse(stream.Context(), info.FullMethod, caller, *cause)
	}
	return err
}

// admit returns a method's rule if the caller has the role for it.
func (a *access) admit(ctx context.Context, method string) (rule, Caller, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return rule{}, nil, errForbidden
	}
	caller, ok := p.AuthInfo.(Caller)
	if !ok {
		return rule{}, nil, errForbidden
	}
	r, ok := rules[method]
	if !ok || r.role != "" && r.role != caller.Role() {
		return rule{}, caller, errForbidden
	}
	return r, caller, nil
}

// check says why the caller may not act as a request does. A request that names
// no worker is the handler's to refuse.
func (a *access) check(ctx context.Context, r rule, caller Caller, request any) error {
	if r.acts == nil {
		return nil
	}
	id, ok := r.acts(request)
	if !ok {
		return errForbidden
	}
	if !session.ValidWorkerID(id) {
		return nil
	}
	name, err := a.name(ctx, id)
	if err != nil {
		return err
	}
	if name != caller.Name() {
		return fmt.Errorf("worker %s: %w", id, session.ErrForeign)
	}
	return nil
}

// name returns the name in the certificate that a worker registered with.
func (a *access) name(ctx context.Context, id string) (string, error) {
	if name, ok := a.names.Get(id); ok {
		return name, nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	name, err := a.store.Certificate(ctx, id)
	if err == nil {
		a.names.Add(id, name)
	}
	return name, err
}

// refuse turns an error into a status. What somebody tried who may not is logged, at a
// bounded pace.
func (a *access) refuse(ctx context.Context, method string, caller Caller, err error) error {
	if !errors.Is(err, errForbidden) && !errors.Is(err, session.ErrForeign) || !a.pace.Allow() {
		a.log.Debug("call was refused", "method", method, "cause", err)
		return toStatus(err)
	}
	from, role, name := "unknown", "", ""
	if p, ok := peer.FromContext(ctx); ok {
		from = p.Addr.String()
	}
	if caller != nil {
		role, name = caller.Role(), caller.Name()
	}
	a.log.Warn("call was refused", "method", method, "role", role, "name", name, "from", from, "cause", err)
	return toStatus(err)
}

// checked is a stream of which each message that comes in is checked.
type checked struct {
	grpc.ServerStream
	check func(message any) error
	cause atomic.Pointer[error] // why a message was refused
}

// RecvMsg implements grpc.ServerStream.
func (c *checked) RecvMsg(m any) error {
	if err := c.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	err := c.check(m)
	if err != nil {
		c.cause.Store(&err)
	}
	return err
}

// callerKey is the key of a Caller in a context.
type callerKey struct{}

// callerName returns the name in the caller's certificate; empty without one.
func callerName(ctx context.Context) string {
	caller, ok := ctx.Value(callerKey{}).(Caller)
	if !ok {
		return ""
	}
	return caller.Name()
}
