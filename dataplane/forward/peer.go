package forward

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Settings of the connections between workers. Windows are fixed, since probing
// for them costs a ping per burst on a link whose delay is known to be small.
const (
	streamWindow = 1 << 20
	connWindow   = 16 << 20
	maxMessage   = 2 << 20
	// bodyPiece bounds the part of a body in one message.
	bodyPiece = 1 << 20
	// idleLanes bounds the streams to one worker that wait for a request.
	idleLanes = 64
	// idleTime is how long a stream waits for a request.
	idleTime = time.Minute
	// justNow is how long ago another worker was heard of for it to be taken as
	// there. Between busy workers nothing is held, then; and a worker that stops
	// leaves the outcome of so much of their traffic unknown.
	justNow = 10 * time.Millisecond
)

// started is what times of peers count from.
var started = time.Now()

// lane is a stream to another worker that carries one request at a time. Making
// a stream costs more than a short call over one that is there.
type lane struct {
	peer    *peer
	stream  leaseholdv1.PeerService_ForwardClient
	cancel  context.CancelFunc
	since   time.Time
	held    bool   // the receiver holds the request until it is told to go
	givenUp uint32 // how often the peer had been given up when the stream was made
}

// peer is another worker.
type peer struct {
	conn    *grpc.ClientConn
	socket  atomic.Pointer[syscall.RawConn] // of the newest connection; nil if it has none
	heard   atomic.Int64                    // when the last answer was complete, since started
	sign    atomic.Int64                    // when anything came, since started
	carries atomic.Int32                    // requests in flight
	givenUp atomic.Uint32                   // how often it was silent for too long
	doubt   *doubt                          // whether it is there; nil if there is none; only for Client.Run

	mu      sync.Mutex // guards what follows
	idle    []*lane    // the last used one last
	sockets []net.Conn // of all connections that are open, and of some that were
	closed  bool
}

func dial(address string, creds credentials.TransportCredentials) (*peer, error) {
	p := &peer{}
	conn, err := grpc.NewClient(address,
		grpc.WithContextDialer(p.connect),
		grpc.WithTransportCredentials(creds),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(), // what may be sent again is decided here
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	)
	if err != nil {
		return nil, err
	}
	p.conn = conn
	return p, nil
}

// connect makes a connection and keeps hold of its socket. gRPC gets the socket
// itself, since it sets options of it.
func (p *peer) connect(ctx context.Context, address string) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if sys, ok := conn.(syscall.Conn); ok {
		if raw, err := sys.SyscallConn(); err == nil {
			p.socket.Store(&raw)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sockets = append(slices.DeleteFunc(p.sockets, isClosed), conn)
	return conn, nil
}

// isClosed reports whether this end of a connection was closed.
func isClosed(conn net.Conn) bool {
	sys, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sys.SyscallConn()
	return err != nil || raw.Control(func(uintptr) {}) != nil
}

// hear notes that an answer came.
func (p *peer) hear() { p.heard.Store(int64(time.Since(started))) }

// heardNow reports whether an answer came a moment ago.
func (p *peer) heardNow() bool {
	heard := p.heard.Load()
	return heard != 0 && time.Since(started)-time.Duration(heard) < justNow
}

// hungUp reports whether the other worker has closed its end of the connection,
// as its death does. The kernel knows it before gRPC has read it, and a request
// written in between would have an outcome that nobody knows.
func (p *peer) hungUp() bool {
	raw := p.socket.Load()
	if raw == nil {
		return false
	}
	closed := false
	err := (*raw).Control(func(fd uintptr) {
		var one [1]byte
		n, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		closed = err == nil && n == 0 || err != nil && err != syscall.EAGAIN && err != syscall.EINTR
	})
	return err != nil || closed
}

// lane returns a free stream, or makes one within ctx.
func (p *peer) lane(ctx context.Context) (*lane, error) {
	for {
		l, err := p.pop()
		if err != nil {
			return nil, err
		}
		if l == nil {
			return p.open(ctx)
		}
		if l.stream.Context().Err() == nil && !p.hungUp() {
			return l, nil
		}
		l.cancel()
	}
}

func (p *peer) pop() (*lane, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errors.New("the worker is no longer a member")
	}
	if len(p.idle) == 0 {
		return nil, nil
	}
	last := len(p.idle) - 1
	l := p.idle[last]
	p.idle[last] = nil
	p.idle = p.idle[:last]
	return l, nil
}

// open makes a stream that outlives the request it is made for.
func (p *peer) open(ctx context.Context) (*lane, error) {
	givenUp := p.givenUp.Load()
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, cancel)
	defer stop()
	stream, err := leaseholdv1.NewPeerServiceClient(p.conn).Forward(own)
	if err == nil {
		err = established(stream)
	}
	if err != nil {
		cancel()
		return nil, err
	}
	p.sees()
	return &lane{peer: p, stream: stream, cancel: cancel, givenUp: givenUp}, nil
}

// established waits until the other worker has taken the stream. Before that,
// gRPC may try another connection by itself, and whether a request was sent could
// not be told.
func established(stream leaseholdv1.PeerService_ForwardClient) error {
	header, err := stream.Header()
	if err == nil && header == nil {
		if _, err = stream.Recv(); err == nil {
			err = errors.New("the stream began without a header")
		}
	}
	return err
}

// keep makes a stream available again, and ends those that have waited too long.
func (p *peer) keep(l *lane) {
	l.since = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		l.cancel()
		return
	}
	p.sweepLocked(l.since)
	if len(p.idle) >= idleLanes {
		p.idle[0].cancel()
		p.idle = p.idle[1:]
	}
	p.idle = append(p.idle, l)
}

// sweep ends streams that have waited too long.
func (p *peer) sweep(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweepLocked(now)
}

func (p *peer) sweepLocked(now time.Time) {
	for len(p.idle) > 0 && now.Sub(p.idle[0].since) > idleTime {
		p.idle[0].cancel()
		p.idle = p.idle[1:]
	}
}

func (p *peer) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, l := range p.idle {
		l.cancel()
	}
	p.idle = nil
	p.conn.Close()
}
