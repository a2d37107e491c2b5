package main

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Names that the scripted control plane uses.
const (
	workerA = "0123456789abcdef"
	workerB = "fedcba9876543210"
	digestA = "0123456789abcdef0123456789abcdef"
)

// States of workers.
const (
	serving  = leaseholdv1.WorkerState_WORKER_STATE_SERVING
	drains   = leaseholdv1.WorkerState_WORKER_STATE_DRAINING
	dead     = leaseholdv1.WorkerState_WORKER_STATE_DEAD
	departed = leaseholdv1.WorkerState_WORKER_STATE_LEFT
)

// plane is a control plane that answers as it is told. All of its replicas share it.
type plane struct {
	leaseholdv1.UnimplementedWorkerServiceServer
	leaseholdv1.UnimplementedSessionServiceServer

	all      []*leaseholdv1.Worker // of ListWorkers
	sessions []*leaseholdv1.Session
	// looks are what GetWorker answers, one after the other and the last for ever.
	looks []look
	// refuse is what changes are answered with, if it is not nil.
	refuse error
	// move answers MoveSession.
	move func(context.Context, *leaseholdv1.MoveSessionRequest) (*leaseholdv1.Session, error)

	mu    sync.Mutex
	asked []string // guarded by mu; the changes that were asked for
	n     int      // guarded by mu; how often GetWorker was called
}

// look is one answer of GetWorker.
type look struct {
	worker *leaseholdv1.Worker
	err    error
	// before is called first, if it is not nil.
	before func(context.Context)
	// sessions are recorded from then on.
	sessions []*leaseholdv1.Session
}

// states makes looks of workers.
func states(workers ...*leaseholdv1.Worker) []look {
	looks := make([]look, len(workers))
	for i, worker := range workers {
		looks[i].worker = worker
	}
	return looks
}

// workerIn returns a worker in a state, with sessions.
func workerIn(state leaseholdv1.WorkerState, sessions, pinned int32) *leaseholdv1.Worker {
	return &leaseholdv1.Worker{
		Name: "workers/" + workerA, Incarnation: 7, State: state, Sessions: sessions, PinnedSessions: pinned, Capacity: 50000,
		ListenAddress: "10.0.0.1:8080", PeerAddress: "10.0.0.1:9090",
	}
}

func (p *plane) GetWorker(ctx context.Context, _ *leaseholdv1.GetWorkerRequest) (*leaseholdv1.GetWorkerResponse, error) {
	p.mu.Lock()
	now := p.looks[min(p.n, len(p.looks)-1)]
	p.n++
	p.sessions = now.sessions
	p.mu.Unlock()
	if now.before != nil {
		now.before(ctx)
	}
	return &leaseholdv1.GetWorkerResponse{Worker: now.worker}, now.err
}

func (p *plane) ListWorkers(_ context.Context, request *leaseholdv1.ListWorkersRequest) (*leaseholdv1.ListWorkersResponse, error) {
	response := &leaseholdv1.ListWorkersResponse{}
	for _, worker := range p.all {
		if request.GetShowDead() || alive(worker) {
			response.Workers = append(response.Workers, worker)
		}
	}
	return response, nil
}

// ListSessions returns one session a page, after a page with none.
func (p *plane) ListSessions(_ context.Context, request *leaseholdv1.ListSessionsRequest) (*leaseholdv1.ListSessionsResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if filter := request.GetFilter(); filter != "" && filter != "owner = workers/"+workerA {
		return nil, status.Errorf(codes.InvalidArgument, "filter %q", filter)
	}
	if request.GetPageToken() == "" {
		return &leaseholdv1.ListSessionsResponse{NextPageToken: "0"}, nil
	}
	var at int
	if _, err := fmt.Sscan(request.GetPageToken(), &at); err != nil {
		return nil, err
	}
	response := &leaseholdv1.ListSessionsResponse{}
	if at < len(p.sessions) {
		response.Sessions = p.sessions[at : at+1]
	}
	if at+1 < len(p.sessions) {
		response.NextPageToken = fmt.Sprint(at + 1)
	}
	return response, nil
}

// changed notes what was asked for.
func (p *plane) changed(what, name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, what+" "+name)
	return p.refuse
}

// changes returns what was asked for, in turn.
func (p *plane) changes() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.asked, ", ")
}

func (p *plane) DrainWorker(_ context.Context, request *leaseholdv1.DrainWorkerRequest) (*leaseholdv1.DrainWorkerResponse, error) {
	return &leaseholdv1.DrainWorkerResponse{}, p.changed("drain", request.GetName())
}

func (p *plane) UndrainWorker(_ context.Context, request *leaseholdv1.UndrainWorkerRequest) (*leaseholdv1.UndrainWorkerResponse, error) {
	return &leaseholdv1.UndrainWorkerResponse{}, p.changed("undrain", request.GetName())
}

func (p *plane) ForgetWorker(_ context.Context, request *leaseholdv1.ForgetWorkerRequest) (*leaseholdv1.ForgetWorkerResponse, error) {
	return &leaseholdv1.ForgetWorkerResponse{}, p.changed("forget", request.GetName())
}

func (p *plane) MoveSession(ctx context.Context, request *leaseholdv1.MoveSessionRequest) (*leaseholdv1.MoveSessionResponse, error) {
	session, err := p.move(ctx, request)
	return &leaseholdv1.MoveSessionResponse{Session: session}, err
}

// replica serves a plane; kill ends it as a crash does.
func (p *plane) replica(t *testing.T) (addr string, kill func()) {
	t.Helper()
	return serveScripted(t, func(server *grpc.Server) {
		leaseholdv1.RegisterWorkerServiceServer(server, p)
		leaseholdv1.RegisterSessionServiceServer(server, p)
	})
}

// serveScripted serves what register registers; kill ends it as a crash does.
func serveScripted(t *testing.T, register func(*grpc.Server)) (addr string, kill func()) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	register(server)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	kill = func() { server.Stop(); <-done }
	t.Cleanup(kill)
	return listener.Addr().String(), kill
}

// run runs an operator's verb against one replica.
func (p *plane) run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	addr, _ := p.replica(t)
	return call(t, "", append(args, "--control", addr)...)
}
