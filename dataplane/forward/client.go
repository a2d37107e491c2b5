package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/leasehold/leasehold/dataplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// What a forward can come to when the owner gave no answer.
var (
	// ErrNotSent says that the request certainly did not reach the owner.
	ErrNotSent = errors.New("owner not reached")
	// ErrRefused says that the receiver is not the session's owner as expected
	// and did nothing.
	ErrRefused = errors.New("refused by the receiver")
	// ErrOutcomeUnknown says that the connection broke before an answer: the
	// request may have been carried out and must not be sent again.
	ErrOutcomeUnknown = errors.New("connection to the owner broke")
)

// Settings of the connections between workers. Windows are fixed, since probing
// for them costs a ping per burst on a link whose delay is known to be small.
const (
	streamWindow = 1 << 20
	connWindow   = 16 << 20
	maxMessage   = 2 << 20
	// bodyPiece bounds the part of a body in one message.
	bodyPiece = 1 << 20
	// idlePeer is how long a connection to a worker that is not asked is kept.
	idlePeer = 10 * time.Minute
)

// Target is who is expected to own a session.
type Target struct {
	Worker      string
	Incarnation int64
	// Epoch that the owner is expected to hold; 0 asks the receiver to take the
	// session over if its owner is dead.
	Epoch   uint64
	Address string
}

// Client forwards to other workers. Safe for concurrent use.
type Client struct {
	mu    sync.Mutex // guards peers
	peers map[string]*grpc.ClientConn
}

// NewClient returns a client without connections.
func NewClient() *Client { return &Client{peers: make(map[string]*grpc.ClientConn)} }

// Close closes all connections.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.peers {
		conn.Close()
	}
	c.peers = nil
}

// Retain closes the connections to workers that are not at one of addresses.
func (c *Client) Retain(addresses map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for address, conn := range c.peers {
		if !addresses[address] {
			conn.Close()
			delete(c.peers, address)
		}
	}
}

func (c *Client) peer(address string) (*grpc.ClientConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn, ok := c.peers[address]; ok {
		return conn, nil
	}
	if c.peers == nil {
		return nil, errors.New("closed")
	}
	conn, err := grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithSharedWriteBuffer(true),
		grpc.WithIdleTimeout(idlePeer),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	)
	if err == nil {
		c.peers[address] = conn
	}
	return conn, err
}

// Forward sends the request to target and writes its answer to w. An error means
// that nothing was written; it is ErrNotSent, ErrRefused or ErrOutcomeUnknown. A
// break after the answer began panics with http.ErrAbortHandler.
func (c *Client) Forward(ctx context.Context, w http.ResponseWriter, target Target, r *session.Request) error {
	conn, err := c.peer(target.Address)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := leaseholdv1.NewPeerServiceClient(conn).Forward(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	if err := send(stream, target, r); err != nil && err != io.EOF {
		return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	} // after io.EOF the reason comes from Recv
	return receive(stream, w)
}

func send(stream leaseholdv1.PeerService_ForwardClient, target Target, r *session.Request) error {
	start := &leaseholdv1.ForwardStart{
		Worker: target.Worker, Incarnation: target.Incarnation, Epoch: target.Epoch, Hops: 1,
		Gateway: r.Gateway, Session: r.Digest[:], Principal: r.Principal,
		Method: r.Method, Headers: packHeader(r.Header), BodyLength: uint32(len(r.Body)),
	}
	piece := r.Body[:min(len(r.Body), bodyPiece)]
	rest := r.Body[len(piece):]
	if err := stream.Send(&leaseholdv1.ForwardRequest{Start: start, Body: piece}); err != nil {
		return err
	}
	for len(rest) > 0 {
		piece, rest = rest[:min(len(rest), bodyPiece)], rest[min(len(rest), bodyPiece):]
		if err := stream.Send(&leaseholdv1.ForwardRequest{Body: piece}); err != nil {
			return err
		}
	}
	return stream.CloseSend()
}

func receive(stream leaseholdv1.PeerService_ForwardClient, w http.ResponseWriter) error {
	flusher, _ := w.(http.Flusher)
	began, flush := false, false
	for {
		message, err := stream.Recv()
		switch {
		case err == io.EOF && began:
			return nil
		case err != nil && began:
			panic(http.ErrAbortHandler)
		case err != nil:
			return refusal(err)
		}
		if head := message.GetHead(); head != nil {
			unpackHeader(w.Header(), head.GetHeaders())
			w.WriteHeader(int(head.GetStatus()))
			began, flush = true, isStream(head)
		}
		if len(message.GetBody()) > 0 {
			if _, err := w.Write(message.GetBody()); err != nil {
				return nil // the client is gone, and so is this request with its context
			}
		}
		if flush {
			flusher.Flush()
		}
	}
}

// isStream reports whether pieces of the body are to be flushed as they come.
func isStream(head *leaseholdv1.ForwardHead) bool {
	for _, h := range head.GetHeaders() {
		if h.GetName() == "Content-Length" {
			return false
		}
	}
	return true
}

// refusal says what a stream that ended without an answer means.
func refusal(err error) error {
	if status.Code(err) == codes.FailedPrecondition {
		for _, detail := range status.Convert(err).Details() {
			if info, ok := detail.(*errdetails.ErrorInfo); ok {
				return fmt.Errorf("%w: %s", ErrRefused, info.GetReason())
			}
		}
	}
	return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
}

func packHeader(h http.Header) []*leaseholdv1.Header {
	packed := make([]*leaseholdv1.Header, 0, len(h))
	for name, values := range h {
		for _, value := range values {
			packed = append(packed, &leaseholdv1.Header{Name: name, Value: value})
		}
	}
	return packed
}

func unpackHeader(to http.Header, from []*leaseholdv1.Header) {
	for _, h := range from {
		to[h.GetName()] = append(to[h.GetName()], h.GetValue())
	}
}
