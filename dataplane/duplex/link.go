package duplex

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

const (
	// maxLeft bounds the requests that are remembered though their clients are
	// gone, so that what still comes for them goes to nobody.
	maxLeft = 256
	// maxDeclined bounds the server's requests that are being declined.
	maxDeclined = 16
	// declineTime bounds the declining of one.
	declineTime = 5 * time.Second
	// codeNoStream is the code of the error with which they are.
	codeNoStream = -32000
)

// link is a channel with the streams of its client.
//
//	server ──▶ answer, progress ───────────────▶ the POST with that id or token
//	       └─▶ anything else ─▶ the GET stream, or the newest POST in flight,
//	                            or held until there is one
type link struct {
	channel Channel
	logger  hclog.Logger
	gone    chan struct{} // closed when run is over

	declining chan struct{}  // capacity maxDeclined
	sends     sync.WaitGroup // of goroutines that send; begun under mu, before over

	mu       sync.Mutex // guards what follows
	over     error      // why the channel has ended; nil while it lives
	waiting  map[string]*stream
	progress map[string]*stream
	posts    []*stream // that were sent and wait for answers, the newest last
	listener *stream   // of the GET; nil without one
	left     []*stream // whose readers are gone, the oldest first
	held     held
	dropped  int
}

func newLink(channel Channel, logger hclog.Logger) *link {
	return &link{channel: channel, logger: logger, gone: make(chan struct{}), declining: make(chan struct{}, maxDeclined),
		waiting: make(map[string]*stream), progress: make(map[string]*stream)}
}

// run passes on what the server sends until the channel ends, and returns when it
// has gone.
func (l *link) run() {
	defer close(l.gone)
	for {
		data, err := l.channel.Receive()
		if err != nil {
			l.fail(err)
			break
		}
		m, err := parse(data)
		if err != nil {
			l.logger.Warn("upstream sent something that is no message; ignored", "bytes", len(data), "error", err)
			continue
		}
		l.pass(m)
	}
	l.channel.Close()
	<-l.channel.Gone()
	l.sends.Wait()
}

// fail ends all streams with the channel.
func (l *link) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = fmt.Errorf("the channel to the server ended: %w", err)
	streams := slices.Clone(l.posts)
	for _, s := range l.waiting {
		streams = append(streams, s)
	}
	if l.listener != nil {
		streams = append(streams, l.listener)
	}
	for _, s := range streams {
		s.end(l.over)
	}
	if l.dropped > 0 {
		l.logger.Warn("messages of the upstream were dropped, since the client had no stream open", "count", l.dropped)
	}
}

// pass puts a message where it belongs.
func (l *link) pass(m *message) {
	owners, ended := l.claim(m)
	for _, s := range owners {
		s.push(m)
	}
	for _, s := range ended {
		s.end(io.EOF)
	}
	switch {
	case len(owners) > 0:
	case len(m.answers) > 0, m.kind == mcp.KindResponse:
		l.logger.Debug("upstream answered a request that nobody made", "ids", m.answers)
	default:
		l.passUnclaimed(m)
	}
}

// claim finds the streams of the requests that a message belongs to, and those
// whose last answer it is.
func (l *link) claim(m *message) (owners, ended []*stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.progress[m.token]; s != nil && m.token != "" {
		owners = append(owners, s)
	}
	for _, id := range m.answers {
		s, last := l.answeredLocked(id)
		if s != nil && !slices.Contains(owners, s) {
			owners = append(owners, s)
		}
		if last {
			ended = append(ended, s)
		}
	}
	m.claimed = len(owners) > 0
	return owners, ended
}

// answeredLocked notes that a request waits no longer. last reports that its stream
// has no other.
func (l *link) answeredLocked(id string) (s *stream, last bool) {
	if s = l.waiting[id]; s == nil {
		return nil, false
	}
	delete(l.waiting, id)
	if s.open--; s.open > 0 {
		return s, false
	}
	l.forgetLocked(s)
	return s, true
}

// forgetLocked removes a stream to which nothing belongs any more.
func (l *link) forgetLocked(s *stream) {
	for _, id := range s.ids {
		if l.waiting[id] == s {
			delete(l.waiting, id)
		}
	}
	for _, token := range s.tokens {
		if l.progress[token] == s {
			delete(l.progress, token)
		}
	}
	s.open = 0
	is := func(other *stream) bool { return other == s }
	l.posts = slices.DeleteFunc(l.posts, is)
	l.left = slices.DeleteFunc(l.left, is)
}

// passUnclaimed puts a message that belongs to no request on a stream, or holds it.
func (l *link) passUnclaimed(m *message) {
	for {
		s := l.anyStream(m)
		if s == nil || s.push(m) {
			return
		}
		l.leave(s)
	}
}

// anyStream returns the stream for a message that belongs to no request. If there
// is none, it takes care of the message.
func (l *link) anyStream(m *message) *stream {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.listener != nil:
		return l.listener
	case len(l.posts) > 0:
		return l.posts[len(l.posts)-1]
	}
	l.holdLocked(m)
	return nil
}

func (l *link) holdLocked(m *message) {
	for _, out := range l.held.add(m) {
		l.dropped++
		if out.kind == mcp.KindRequest {
			l.declineLocked(out.id)
		}
	}
}

// declineLocked answers a request of the server that its client cannot be asked.
func (l *link) declineLocked(id []byte) {
	select {
	case l.declining <- struct{}{}:
	default:
		return // a server that asks that much has to do without answers
	}
	body := mcp.AppendError(nil, &mcp.Error{Code: codeNoStream, Message: "the client has no stream open", ID: id})
	l.startLocked(func() {
		defer func() { <-l.declining }()
		ctx, cancel := context.WithTimeout(context.Background(), declineTime)
		defer cancel()
		header := http.Header{"Content-Type": {"application/json"}, "User-Agent": {"leasehold"}}
		if err := l.channel.Send(ctx, &session.Dispatch{Method: http.MethodPost, Header: header, Body: body, Own: true}); err != nil {
			l.logger.Warn("a request of the upstream was not declined", "error", err)
		}
	})
}

// startLocked runs f in a goroutine that run waits for, unless the channel has
// ended.
func (l *link) startLocked(f func()) bool {
	if l.over == nil {
		l.sends.Go(f)
	}
	return l.over == nil
}

// leave is told that nobody reads a stream any more. What still comes for its
// requests goes to nobody; what belonged to none of them is for another stream.
func (l *link) leave(s *stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.listener == s {
		l.listener = nil
	}
	l.posts = slices.DeleteFunc(l.posts, func(other *stream) bool { return other == s })
	for _, m := range s.unread() {
		l.holdLocked(m)
	}
	if s.open > 0 && !slices.Contains(l.left, s) {
		l.left = append(l.left, s)
		if len(l.left) > maxLeft {
			l.forgetLocked(l.left[0])
		}
	}
}

var errOver = errors.New("the channel to the server has ended")

// post sends what a client says. What it asks for comes on the answer's stream.
func (l *link) post(ctx context.Context, d *session.Dispatch) (*http.Response, error) {
	a, err := askedBy(d.Body)
	if err != nil {
		return nil, Refuse(d, http.StatusBadRequest, mcp.CodeInvalidRequest, err.Error())
	}
	s := newStream(ctx, a, d.Silence, l.leave)
	if err := l.send(ctx, d, s); err != nil {
		s.done()
		l.retract(s)
		if errors.Is(err, errOver) {
			return nil, &Refused{sessionNotFound(d)}
		}
		return nil, err
	}
	l.cancel(a.cancelled)
	if len(a.ids) == 0 {
		s.done()
		return newAnswer(http.StatusAccepted, "", nil), nil
	}
	l.sent(s)
	return newStreamAnswer(s), nil
}

// send sends a POST and returns when the server has it. Messages for its stream
// that come before fill the stream, and then tell as well.
func (l *link) send(ctx context.Context, d *session.Dispatch, s *stream) error {
	done := make(chan error, 1)
	if !l.begin(s, func() { done <- l.channel.Send(ctx, d) }) {
		return errOver
	}
	select {
	case err := <-done:
		return err
	case <-s.full:
		return nil
	case <-s.silent:
		return s.whySilent()
	}
}

// begin notes what a POST asks before it is sent, and sends it.
func (l *link) begin(s *stream, send func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range s.ids {
		l.waiting[id] = s
	}
	for _, token := range s.tokens {
		l.progress[token] = s
	}
	return l.startLocked(send)
}

// sent makes a POST one that other messages can go with, too.
func (l *link) sent(s *stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.open == 0 || slices.Contains(l.left, s) {
		return
	}
	if l.over != nil {
		s.end(l.over)
		return
	}
	l.posts = append(l.posts, s)
	if l.listener == nil {
		s.add(l.held.take())
	}
}

// retract forgets a POST that the server does not have.
func (l *link) retract(s *stream) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forgetLocked(s)
}

// cancel ends the waiting for requests that the client has cancelled: the server
// need not answer them.
func (l *link) cancel(ids []string) {
	var ended []*stream
	l.mu.Lock()
	for _, id := range ids {
		if s, last := l.answeredLocked(id); last {
			ended = append(ended, s)
		}
	}
	l.mu.Unlock()
	for _, s := range ended {
		s.end(io.EOF)
	}
}

// listen opens the GET stream.
func (l *link) listen(ctx context.Context, d *session.Dispatch) (*http.Response, error) {
	if err := d.LetOut(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.over != nil:
		return nil, &Refused{sessionNotFound(d)}
	case l.listener != nil:
		return nil, Refuse(d, http.StatusConflict, mcp.CodeInvalidRequest, "the session has a GET stream already")
	}
	l.listener = newStream(ctx, asked{}, d.Silence, l.leave)
	l.listener.add(l.held.take())
	return newStreamAnswer(l.listener), nil
}

// delete ends the channel, and returns once it has gone.
func (l *link) delete(ctx context.Context, d *session.Dispatch) (*http.Response, error) {
	if err := d.LetOut(); err != nil {
		return nil, err
	}
	l.channel.Close()
	select {
	case <-l.gone:
		return newAnswer(http.StatusNoContent, "", nil), nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
