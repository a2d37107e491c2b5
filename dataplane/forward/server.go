package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/leasehold/leasehold/dataplane/route"
	"github.com/leasehold/leasehold/dataplane/session"
	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Owner serves forwarded requests.
type Owner interface {
	// Admit finds what is to serve the request if this worker is the owner that
	// target names, or returns a Refusal. With epoch 0 it takes the session over if
	// that is free.
	Admit(ctx context.Context, target route.Target, r *session.Request) (route.Admitted, error)
	// Find returns the session with this digest if this worker owns it.
	Find(d sessionid.Digest) (*session.Session, bool)
}

// maxObserved bounds the sessions of one ObserveSessions.
const maxObserved = 1000

// Server is the receiving end. Safe for concurrent use.
type Server struct {
	leaseholdv1.UnimplementedPeerServiceServer
	owner Owner
	log   hclog.Logger
	grpc  *grpc.Server
	loop  Loop // what Probe asks
	self  Self // what others ask about

	expecter Expecter // of sessions that are handed over
	mover    Mover    // of sessions for operators
	looker   Looker   // at upstreams for operators

	mu      sync.Mutex // guards what follows
	serving int
	closing bool
	drained chan struct{} // closed once closing and nothing is served
}

// NewServer returns a server for the other workers. creds secure it; their AuthInfo
// is a Caller, and callers may do what the rules say. Nil means plaintext, and that
// everybody may call everything.
func NewServer(owner Owner, creds credentials.TransportCredentials, log hclog.Logger) *Server {
	s := &Server{owner: owner, log: log, drained: make(chan struct{})}
	s.grpc = grpc.NewServer(append(secure(creds, log),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connWindow),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)...)
	leaseholdv1.RegisterPeerServiceServer(s.grpc, s)
	return s
}

// Serve serves on l until Stop.
func (s *Server) Serve(l net.Listener) error { return s.grpc.Serve(l) }

// Drain refuses new requests and waits for those being served until ctx ends.
func (s *Server) Drain(ctx context.Context) {
	s.mu.Lock()
	s.closing = true
	if s.serving == 0 {
		close(s.drained)
	}
	s.mu.Unlock()
	select {
	case <-s.drained:
	case <-ctx.Done():
	}
}

// Stop cuts what is still served and ends Serve.
func (s *Server) Stop() { s.grpc.Stop() }

func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.serving++
	return true
}

func (s *Server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.serving--; s.closing && s.serving == 0 {
		close(s.drained)
	}
}

// Forward implements leaseholdv1.PeerServiceServer.
func (s *Server) Forward(stream leaseholdv1.PeerService_ForwardServer) error {
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for {
		target, request, err := receiveRequest(stream)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.serve(stream, target, request); err != nil {
			return err
		}
	}
}

// serve serves one request. An error ends the stream.
func (s *Server) serve(stream leaseholdv1.PeerService_ForwardServer, target route.Target, request received) (err error) {
	if !s.begin() {
		return refuse(stream, route.Closing)
	}
	defer s.end()
	owned, err := s.owner.Admit(stream.Context(), target, request.Request)
	if err != nil {
		return refuse(stream, err)
	}
	if request.hold {
		if err := hold(stream); err != nil {
			return err
		}
	}
	defer func() {
		if p := recover(); p != nil {
			if e, ok := p.(error); !ok || !errors.Is(e, http.ErrAbortHandler) {
				// As net/http does for clients of this worker's own: one request
				// ends, and not the worker with all of its sessions.
				s.log.Error("panic while serving a forwarded request", "panic", p, "stack", string(debug.Stack()))
			}
			err = status.Error(codes.DataLoss, "the answer broke off")
		}
	}()
	w := responseWriter{stream: stream}
	switch err := owned.Serve(stream.Context(), &w, request.Request); {
	case errors.Is(err, session.ErrFenced):
		return refuse(stream, route.Fenced)
	case err != nil:
		return refuse(stream, err)
	}
	return w.finish()
}

var ready = &leaseholdv1.ForwardResponse{Ready: true}

// hold says that the request is ready and waits until it may go.
func hold(stream leaseholdv1.PeerService_ForwardServer) error {
	if err := stream.Send(ready); err != nil {
		return err
	}
	message, err := stream.Recv()
	if err == nil && !message.GetGo() {
		err = status.Error(codes.InvalidArgument, "the message after ready is not go")
	}
	return err
}

// ObserveSessions implements leaseholdv1.PeerServiceServer.
func (s *Server) ObserveSessions(_ context.Context, r *leaseholdv1.ObserveSessionsRequest) (*leaseholdv1.ObserveSessionsResponse, error) {
	if n := len(r.GetSessions()); n > maxObserved {
		return nil, status.Errorf(codes.InvalidArgument, "sessions: %d given, at most %d", n, maxObserved)
	}
	found := make(map[string]*leaseholdv1.SessionActivity, len(r.GetSessions()))
	for i, name := range r.GetSessions() {
		digest, err := sessionid.ParseDigest(name)
		if err != nil {
			return nil, status.Errorf(codes.InvalidArgument, "sessions[%d]: %v", i, err)
		}
		if owned, ok := s.owner.Find(digest); ok {
			found[name] = owned.Activity()
		}
	}
	return &leaseholdv1.ObserveSessionsResponse{Activities: found}, nil
}

func refuse(stream leaseholdv1.PeerService_ForwardServer, err error) error {
	refusal := route.NotOwner
	errors.As(err, &refusal)
	message := &leaseholdv1.ForwardResponse{Refusal: leaseholdv1.Refusal(refusal), End: true}
	if moved := (*session.Moved)(nil); errors.As(err, &moved) {
		message.Moved = &leaseholdv1.Moved{Worker: moved.Worker, Incarnation: moved.Incarnation, Epoch: moved.Epoch}
	}
	return stream.Send(message)
}

// received is a forwarded request.
type received struct {
	*session.Request
	hold bool // until the caller says go
}

func receiveRequest(stream leaseholdv1.PeerService_ForwardServer) (route.Target, received, error) {
	first, err := stream.Recv()
	if err != nil {
		return route.Target{}, received{}, err
	}
	start := first.GetStart()
	switch {
	case start == nil:
		return route.Target{}, received{}, status.Error(codes.InvalidArgument, "the first message has no start")
	case start.GetHops() != 1:
		return route.Target{}, received{}, status.Errorf(codes.InvalidArgument, "hops: %d, want 1", start.GetHops())
	case len(start.GetSession()) != len(sessionid.Digest{}):
		return route.Target{}, received{}, status.Errorf(codes.InvalidArgument, "session: %d bytes, want %d", len(start.GetSession()), len(sessionid.Digest{}))
	case len(start.GetHeader())%2 != 0:
		return route.Target{}, received{}, status.Errorf(codes.InvalidArgument, "header: %d strings, want names and values in turn", len(start.GetHeader()))
	case start.GetBodyLength() > session.MaxBody:
		return route.Target{}, received{}, status.Errorf(codes.InvalidArgument, "body_length: %d, at most %d", start.GetBodyLength(), session.MaxBody)
	}
	body, err := receiveBody(stream, first.GetBody(), int(start.GetBodyLength()))
	if err != nil {
		return route.Target{}, received{}, err
	}
	header := make(http.Header, len(start.GetHeader())/2+1)
	unpackHeader(header, start.GetHeader())
	return route.Target{Worker: start.GetWorker(), Incarnation: start.GetIncarnation(), Epoch: start.GetEpoch(), Settings: settingsOf(start)},
		received{&session.Request{
			Gateway: start.GetGateway(), Digest: sessionid.Digest(start.GetSession()), Principal: start.GetPrincipal(),
			Method: start.GetMethod(), Header: header, Body: body, IDs: start.GetIds(), Lists: session.Lists(start.GetLists()),
		}, start.GetHold()}, nil
}

// settingsOf returns the settings that a front knows; none if it does not say.
func settingsOf(start *leaseholdv1.ForwardStart) route.Settings {
	s := route.Settings{Revision: start.GetGatewayRevision()}
	if copy(s.Fingerprint[:], start.GetConnectionFingerprint()) < len(s.Fingerprint) {
		return route.Settings{}
	}
	return s
}

func receiveBody(stream leaseholdv1.PeerService_ForwardServer, first []byte, length int) ([]byte, error) {
	if len(first) == length {
		return first, nil
	}
	body := append(make([]byte, 0, length), first...)
	for len(body) < length {
		message, err := stream.Recv()
		if err == io.EOF {
			return nil, status.Errorf(codes.InvalidArgument, "body: %d of %d bytes", len(body), length)
		}
		if err != nil {
			return nil, err
		}
		body = append(body, message.GetBody()...)
	}
	if len(body) != length {
		return nil, status.Errorf(codes.InvalidArgument, "body: %d bytes, body_length says %d", len(body), length)
	}
	return body, nil
}

// responseWriter sends an answer over the stream. A short answer is one message.
type responseWriter struct {
	stream  leaseholdv1.PeerService_ForwardServer
	header  http.Header
	status  int
	started bool // the head went out
	pending []byte
	settled bool
	err     error
}

// sendAt is how much of a body goes into a message. With its framing a message
// then fits gRPC's 32 KiB buffers; the next larger ones are 1 MiB, and cleared
// whole each time.
const sendAt = 32<<10 - 256

// Header implements http.ResponseWriter.
func (w *responseWriter) Header() http.Header {
	if w.header == nil {
		w.header = make(http.Header, 4)
	}
	return w.header
}

// WriteHeader implements http.ResponseWriter.
func (w *responseWriter) WriteHeader(code int) {
	if w.status == 0 {
		w.status = code
	}
}

// Write implements http.ResponseWriter.
func (w *responseWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	if w.pending == nil && len(p) < sendAt {
		w.pending = make([]byte, 0, len(p))
	}
	w.pending = append(w.pending, p...)
	if len(w.pending) >= sendAt {
		w.Flush()
	}
	return len(p), w.err
}

// Settled implements session.Settler.
func (w *responseWriter) Settled() { w.settled = true }

// Flush implements http.Flusher.
func (w *responseWriter) Flush() { w.send(false) }

// finish sends what is left and ends the answer. It returns the first error of
// sending.
func (w *responseWriter) finish() error {
	w.send(true)
	return w.err
}

func (w *responseWriter) send(end bool) {
	for w.err == nil && (!w.started || len(w.pending) > 0 || end) {
		piece := w.pending[:min(len(w.pending), sendAt)]
		w.pending = w.pending[len(piece):]
		message := &leaseholdv1.ForwardResponse{Body: piece, End: end && len(w.pending) == 0, Settled: w.settled}
		if !w.started {
			w.WriteHeader(http.StatusOK)
			message.Head = &leaseholdv1.ForwardHead{Status: uint32(w.status), Header: packHeader(w.header)}
			w.started = true
		}
		w.err = w.stream.Send(message)
		if message.End {
			break
		}
	}
	w.pending = w.pending[:0]
}
