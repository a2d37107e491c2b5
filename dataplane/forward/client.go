package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/leasehold/leasehold/dataplane/route"
	"github.com/leasehold/leasehold/dataplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Client forwards to other workers. Safe for concurrent use.
type Client struct {
	creds credentials.TransportCredentials
	mu    sync.Mutex // guards peers
	peers map[string]*peer
}

// NewClient returns a client without connections. creds secure them; nil means
// plaintext.
func NewClient(creds credentials.TransportCredentials) *Client {
	return &Client{creds: orPlaintext(creds), peers: make(map[string]*peer)}
}

func orPlaintext(creds credentials.TransportCredentials) credentials.TransportCredentials {
	if creds == nil {
		return insecure.NewCredentials()
	}
	return creds
}

// Close closes all connections.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.peers {
		p.close()
	}
	c.peers = nil
}

// Run ends streams that have waited too long for a request, and breaks connections
// to workers that have requests and are silent, until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	var questions sync.WaitGroup
	defer questions.Wait()
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			for _, ask := range c.look(ctx, time.Now()) {
				questions.Go(ask)
			}
		}
	}
}

// look sees to every worker that there is a connection to. It returns what is to
// be asked of those that are silent.
func (c *Client) look(ctx context.Context, now time.Time) (questions []func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.peers {
		p.sweep(now)
		if ask := p.look(ctx, now); ask != nil {
			questions = append(questions, ask)
		}
	}
	return questions
}

// Retain closes the connections to workers that are not at one of addresses.
func (c *Client) Retain(addresses map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for address, p := range c.peers {
		if !addresses[address] {
			p.close()
			delete(c.peers, address)
		}
	}
}

func (c *Client) peer(address string) (*peer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.peers[address]; ok {
		return p, nil
	}
	if c.peers == nil {
		return nil, errors.New("closed")
	}
	p, err := dial(address, c.creds)
	if err == nil {
		c.peers[address] = p
	}
	return p, err
}

// Forward sends the request to target and writes its answer to w. An error means
// that nothing was written; it is route.ErrNotSent, ErrRefused or ErrOutcomeUnknown;
// or it is ErrBrokeOff. Any other break after the answer began panics with
// http.ErrAbortHandler.
//
// The receiver holds the request until it is told to go, which it is only once it
// has said that it is there: so a request that ends up at a worker that is dead,
// stopped or cut off was certainly not dispatched. That costs a round trip, which
// is spared when the receiver was heard of a moment ago.
//
// While Run runs, a receiver that falls silent without its connection's breaking
// is as one whose connection breaks, 3 s later at most.
func (c *Client) Forward(ctx context.Context, w http.ResponseWriter, target route.Target, r *session.Request) error {
	p, err := c.peer(target.Address)
	if err != nil {
		return fmt.Errorf("%w: %w", route.ErrNotSent, err)
	}
	p.carries.Add(1)
	defer p.carries.Add(-1)
	l, err := p.admitted(ctx, target, r)
	if err != nil {
		return err
	}
	free := false
	defer func() {
		if !free {
			l.cancel()
		}
	}()
	stop := context.AfterFunc(ctx, l.cancel)
	defer stop()
	if err := l.release(); err != nil {
		return err
	}
	if err := l.receive(ctx, w); !errors.Is(err, errWhole) {
		return err
	}
	p.hear()
	if free = stop(); free {
		p.keep(l)
	}
	return nil
}

var goAhead = &leaseholdv1.ForwardRequest{Go: true}

// release lets the receiver dispatch the request that it holds.
func (l *lane) release() error {
	if !l.held {
		return nil
	}
	switch err := l.stream.Send(goAhead); {
	case err == io.EOF: // the stream has ended and takes nothing in
		return fmt.Errorf("%w: %w", route.ErrNotSent, err)
	case err != nil:
		return fmt.Errorf("%w: %w", route.ErrOutcomeUnknown, err)
	}
	return nil
}

// admitted returns a stream that has taken the request in. Unless the other end
// was heard of just now, it holds the request, ready to dispatch it.
func (p *peer) admitted(ctx context.Context, target route.Target, r *session.Request) (*lane, error) {
	ctx, cancel := context.WithTimeout(ctx, target.Patience)
	defer cancel()
	l, err := p.begin(ctx, target, r)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, l.cancel)
	err = l.sendRest(r.Body) // a request that is not whole is not dispatched
	if err == nil && l.held {
		err = l.awaitReady()
	}
	intact := stop() // otherwise the stream is cancelled, or is about to be
	if !intact && err == nil && l.held {
		err = context.Cause(ctx)
	}
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, route.ErrRefused) && intact:
		p.keep(l)
		return nil, err
	case errors.Is(err, route.ErrRefused):
		l.cancel()
		return nil, err
	}
	l.cancel()
	return nil, fmt.Errorf("%w: %w", route.ErrNotSent, err)
}

// begin sends the first message of a request, on a stream that takes it.
func (p *peer) begin(ctx context.Context, target route.Target, r *session.Request) (*lane, error) {
	held := !p.heardNow()
	message := &leaseholdv1.ForwardRequest{
		Start: &leaseholdv1.ForwardStart{
			Worker: target.Worker, Incarnation: target.Incarnation, Epoch: target.Epoch, Hops: 1,
			Gateway: r.Gateway, Session: r.Digest[:], Principal: r.Principal, Ids: r.IDs, Hold: held, Lists: uint32(r.Lists),
			GatewayRevision: target.Settings.Revision, ConnectionFingerprint: target.Settings.Fingerprint[:],
			Method: r.Method, Header: packHeader(r.Header), BodyLength: uint32(len(r.Body)),
		},
		Body: r.Body[:min(len(r.Body), bodyPiece)],
	}
	for {
		l, err := p.lane(ctx)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", route.ErrNotSent, err)
		}
		err = l.stream.Send(message)
		if err == nil {
			l.held = held
			return l, nil
		}
		l.cancel()
		// With a stream that waited, this means that the connection went meanwhile.
		if err != io.EOF || l.since.IsZero() {
			return nil, fmt.Errorf("%w: %w", route.ErrNotSent, err)
		}
	}
}

// awaitReady waits until the receiver holds the request. ErrRefused: it will not.
func (l *lane) awaitReady() error {
	message, err := l.recv()
	switch {
	case err != nil:
		return err
	case message.GetRefusal() != leaseholdv1.Refusal_REFUSAL_UNSPECIFIED:
		return refused(message)
	case !message.GetReady():
		return errors.New("the receiver answered before it was told to go")
	}
	return nil
}

func refused(message *leaseholdv1.ForwardResponse) error {
	err := fmt.Errorf("%w: %w", route.ErrRefused, route.Refusal(message.GetRefusal()))
	if moved := message.GetMoved(); moved != nil {
		err = fmt.Errorf("%w: %w", err, &session.Moved{Worker: moved.GetWorker(), Incarnation: moved.GetIncarnation(), Epoch: moved.GetEpoch()})
	}
	return err
}

// sendRest sends what of the body the first message had no room for.
func (l *lane) sendRest(body []byte) error {
	for sent := min(len(body), bodyPiece); sent < len(body); {
		piece := body[sent:min(len(body), sent+bodyPiece)]
		sent += len(piece)
		if err := l.stream.Send(&leaseholdv1.ForwardRequest{Body: piece}); err != nil {
			return err
		}
	}
	return nil
}

// comeBack tells the client of a stream that ends to open it again soon.
var comeBack = []byte("retry: 100\n\n")

// errWhole says that an answer came through to its end.
var errWhole = errors.New("the answer is whole")

// receive writes the answer as it comes. It returns errWhole when the stream is
// free for another request, nil when the client no longer reads, or an error of
// Forward.
func (l *lane) receive(ctx context.Context, w http.ResponseWriter) error {
	flusher, _ := w.(http.Flusher)
	began, flush := false, false
	var events openStream
	for {
		message, err := l.recv()
		switch {
		case err != nil && errors.Is(context.Cause(ctx), session.ErrLeaving) && events.open:
			if !events.within {
				w.Write(comeBack)
			}
			return nil
		case err != nil && events.canEnd():
			return fmt.Errorf("%w: %w", route.ErrBrokeOff, err)
		case err != nil && began:
			panic(http.ErrAbortHandler)
		case err != nil:
			return fmt.Errorf("%w: %w", route.ErrOutcomeUnknown, err)
		case message.GetRefusal() != leaseholdv1.Refusal_REFUSAL_UNSPECIFIED:
			return refused(message)
		}
		if head := message.GetHead(); head != nil {
			unpackHeader(w.Header(), head.GetHeader())
			w.WriteHeader(int(head.GetStatus()))
			began, flush = true, w.Header()["Content-Length"] == nil
			events.open = isEventStream(w.Header())
		}
		if len(message.GetBody()) > 0 {
			if _, err := w.Write(message.GetBody()); err != nil {
				return nil
			}
		}
		events.note(message)
		if message.GetEnd() {
			return errWhole
		}
		if flush {
			flusher.Flush()
		}
	}
}

// openStream is what has gone by of an answer that is a stream of events.
type openStream struct {
	open    bool
	settled bool
	within  bool // the last piece ended within an event
}

func (s *openStream) note(message *leaseholdv1.ForwardResponse) {
	if !s.open {
		return
	}
	s.settled = s.settled || message.GetSettled()
	if body := message.GetBody(); len(body) > 0 {
		s.within = !bytes.HasSuffix(body, []byte("\n\n")) && !bytes.HasSuffix(body, []byte("\r\n\r\n")) && !bytes.HasSuffix(body, []byte("\r\r"))
	}
}

// canEnd reports whether an event can still be added, and is needed.
func (s *openStream) canEnd() bool { return s.open && !s.settled && !s.within }

func isEventStream(h http.Header) bool {
	return strings.HasPrefix(h.Get("Content-Type"), "text/event-stream")
}

func packHeader(h http.Header) []string {
	packed := make([]string, 0, 2*len(h))
	for name, values := range h {
		for _, value := range values {
			packed = append(packed, name, value)
		}
	}
	return packed
}

func unpackHeader(to http.Header, from []string) {
	values := make([]string, len(from)/2) // one allocation for all of them
	for i := range values {
		name, value := from[2*i], from[2*i+1]
		if to[name] == nil {
			values[i] = value
			to[name] = values[i : i+1 : i+1]
		} else {
			to[name] = append(to[name], value)
		}
	}
}
