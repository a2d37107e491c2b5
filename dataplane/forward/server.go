package forward

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/leasehold/leasehold/dataplane/session"
	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// MaxBody bounds a client's request body.
const MaxBody = 4 << 20

// Refusal is why a receiver does not serve a forwarded request. Nothing was
// dispatched.
type Refusal string

// The refusals.
const (
	NotOwner         Refusal = "NOT_OWNER"
	StaleEpoch       Refusal = "STALE_EPOCH"
	StaleIncarnation Refusal = "STALE_INCARNATION"
	Fenced           Refusal = "FENCED"
)

// Error makes a refusal an error.
func (r Refusal) Error() string { return "forward refused: " + string(r) }

// Owner serves forwarded requests.
type Owner interface {
	// Admit finds the session if this worker is the owner that target names, or
	// returns a Refusal. With epoch 0 it takes the session over if that is free.
	Admit(ctx context.Context, target Target, r *session.Request) (*session.Session, error)
}

// Server is the receiving end. Safe for concurrent use.
type Server struct {
	leaseholdv1.UnimplementedPeerServiceServer
	owner Owner
}

// NewServer returns a gRPC server for the other workers.
func NewServer(owner Owner) *grpc.Server {
	server := grpc.NewServer(
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connWindow),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.SharedWriteBuffer(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
	)
	leaseholdv1.RegisterPeerServiceServer(server, &Server{owner: owner})
	return server
}

// Forward implements leaseholdv1.PeerServiceServer.
func (s *Server) Forward(stream leaseholdv1.PeerService_ForwardServer) (err error) {
	target, request, err := receiveRequest(stream)
	if err != nil {
		return err
	}
	owned, err := s.owner.Admit(stream.Context(), target, request)
	if err != nil {
		return refuse(err)
	}
	w := &responseWriter{stream: stream}
	defer func() {
		if p := recover(); p != nil {
			if e, ok := p.(error); !ok || !errors.Is(e, http.ErrAbortHandler) {
				panic(p)
			}
			err = status.Error(codes.DataLoss, "the answer broke off")
		}
	}()
	owned.Serve(stream.Context(), w, request)
	return w.finish()
}

func refuse(err error) error {
	refusal := NotOwner
	errors.As(err, &refusal)
	st, detailErr := status.New(codes.FailedPrecondition, err.Error()).WithDetails(
		&errdetails.ErrorInfo{Reason: string(refusal), Domain: "leasehold"})
	if detailErr != nil {
		return status.Error(codes.Internal, "internal error")
	}
	return st.Err()
}

func receiveRequest(stream leaseholdv1.PeerService_ForwardServer) (Target, *session.Request, error) {
	first, err := stream.Recv()
	if err != nil {
		return Target{}, nil, err
	}
	start := first.GetStart()
	switch {
	case start == nil:
		return Target{}, nil, status.Error(codes.InvalidArgument, "the first message has no start")
	case start.GetHops() != 1:
		return Target{}, nil, status.Errorf(codes.InvalidArgument, "hops: %d, want 1", start.GetHops())
	case len(start.GetSession()) != len(sessionid.Digest{}):
		return Target{}, nil, status.Errorf(codes.InvalidArgument, "session: %d bytes, want %d", len(start.GetSession()), len(sessionid.Digest{}))
	case start.GetBodyLength() > MaxBody:
		return Target{}, nil, status.Errorf(codes.InvalidArgument, "body_length: %d, at most %d", start.GetBodyLength(), MaxBody)
	}
	body, err := receiveBody(stream, first.GetBody(), int(start.GetBodyLength()))
	if err != nil {
		return Target{}, nil, err
	}
	header := make(http.Header, len(start.GetHeaders())+1)
	unpackHeader(header, start.GetHeaders())
	return Target{Worker: start.GetWorker(), Incarnation: start.GetIncarnation(), Epoch: start.GetEpoch()},
		&session.Request{
			Gateway: start.GetGateway(), Digest: sessionid.Digest(start.GetSession()), Principal: start.GetPrincipal(),
			Method: start.GetMethod(), Header: header, Body: body,
		}, nil
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
	err     error
}

// sendAt is how much of a body is gathered before it is sent unflushed.
const sendAt = 64 << 10

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

// Flush implements http.Flusher.
func (w *responseWriter) Flush() {
	for w.err == nil && (!w.started || len(w.pending) > 0) {
		piece := w.pending[:min(len(w.pending), bodyPiece)]
		message := &leaseholdv1.ForwardResponse{Body: piece}
		if !w.started {
			w.WriteHeader(http.StatusOK)
			message.Head = &leaseholdv1.ForwardHead{Status: uint32(w.status), Headers: packHeader(w.header)}
			w.started = true
		}
		w.err = w.stream.Send(message)
		w.pending = w.pending[len(piece):]
	}
	w.pending = w.pending[:0]
}

// finish sends what is left and returns the first error of sending.
func (w *responseWriter) finish() error {
	if !w.started || len(w.pending) > 0 {
		w.Flush()
	}
	return w.err
}
