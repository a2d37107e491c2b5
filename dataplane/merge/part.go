package merge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/leasehold/leasehold/dataplane/catalogue"
	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/session"
)

// part is one upstream of a session.
//
//	            use, recovery                answered
//	unopened ─────────────────▶ opening ─────────────────▶ open
//	    ▲                          │ ▲                       │
//	    │                   failed │ │ one try at a time     │ it lost the session
//	    │                          ▼ │ per worker            │
//	    └── lazy, attached      waiting  ◀───────────────────┘
//
// Its fields are guarded by the session's mu, but for of.
type part struct {
	of       *merged
	upstream *config.Upstream
	now      *link    // while it is open
	try      *opening // while it is being opened
	failed   error    // why it is not open, as far as was tried
	gone     bool     // it is no part of the session any more

	lists   catalogue.Lists
	fetched [catalogue.Kinds]time.Time // when; zero while a list is to be fetched again
	watched [catalogue.Kinds]bool      // a stream would have told of a change since
	fetch   [catalogue.Kinds]*fetch    // while it is being fetched
	stale   kindSet                    // the part has said that these have changed, and they were not fetched since

	after string // the event id that its next GET stream goes on after
}

// link is one upstream session of a part. It is not changed once it is open, but for
// what is guarded by the session's mu.
type link struct {
	part     *part
	upstream *config.Upstream
	id       string // empty if the upstream gave none
	version  string
	address  string // of the replica that has it; empty without an id
	offers   *offers
	proven   atomic.Bool // it has answered a request
	plain    atomic.Bool // it said something on its GET stream without an event id

	// Guarded by the session's mu:
	told   bool // it knows that the client is initialized
	silent bool // it has no GET stream
	stood  bool // it has served a GET stream
	calls  int
	quiet  chan struct{} // closed when the last call is over; nil while nobody waits
}

// opening is one try to open a part, for all who wait for it.
type opening struct {
	done chan struct{} // closed once err is set
	err  error
	wake chan<- struct{} // of capacity 1, told when done is closed; nil if nobody wants that
}

// end ends the try.
func (try *opening) end() {
	close(try.done)
	select {
	case try.wake <- struct{}{}:
	default:
	}
}

// endTime bounds the ending of an upstream session.
const endTime = 5 * time.Second

// openBudget is how long initialize waits for the parts.
func openBudget(definition *config.Merged) time.Duration {
	return cmp.Or(definition.OpenTimeout, config.DefaultOpenTimeout)
}

func openTimeout(u *config.Upstream) time.Duration {
	return cmp.Or(u.OpenTimeout, config.DefaultPartOpenTimeout)
}

// errOver says that a session or a part is there no more.
var errOver = errors.New("is not there any more")

// begin begins to open a part, unless it is open or on its way.
func (m *merged) begin(p *part) *opening { return m.beginWith(p, nil, nil) }

// beginWith is begin with the client's own initialize, or nil, and somebody to be told
// of the end, or nil.
func (m *merged) beginWith(p *part, first *session.Dispatch, wake chan<- struct{}) *opening {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case p.try != nil:
		return p.try
	case m.over, p.gone:
		return ended(errOver)
	case p.now != nil:
		return ended(nil)
	}
	try := &opening{done: make(chan struct{}), wake: wake}
	if !m.up.spawn(func() { m.run(p, try, first) }) {
		return ended(errOver)
	}
	p.try = try
	return try
}

func ended(err error) *opening {
	done := make(chan struct{})
	close(done)
	return &opening{done: done, err: err}
}

// run opens a part. What comes too late is ended again.
func (m *merged) run(p *part, try *opening, first *session.Dispatch) {
	select {
	case m.slots <- struct{}{}:
	case <-m.up.work.Done():
		m.settle(p, try, nil, context.Cause(m.up.work))
		return
	}
	defer func() { <-m.slots }()
	m.mu.Lock()
	upstream := p.upstream
	m.mu.Unlock()
	ctx, cancel := context.WithTimeoutCause(m.up.work, openTimeout(upstream), &tooLate{openTimeout(upstream)})
	defer cancel()
	gate := &watched{Gate: m}
	l, err := m.dial(ctx, p, upstream, first, gate)
	for err == nil {
		if err = m.catchUp(ctx, l, gate); err == nil && m.settle(p, try, l, nil) {
			return
		}
	}
	switch cause := context.Cause(ctx); {
	case gate.refused.Load():
		err = errClosed
	case cause != nil:
		err = cause
	}
	m.settle(p, try, nil, err)
	if l != nil {
		m.endLink(l, nil)
	}
}

// errClosed says that this worker may not act for the session, for now or any more.
var errClosed = errors.New("is not open, and this worker may not open it now")

// settle ends a try. With a link it reports false if the session needs more to be said
// to that first.
func (m *merged) settle(p *part, try *opening, l *link, err error) bool {
	m.mu.Lock()
	if l != nil && m.initialized && !l.told && !m.over && !p.gone {
		m.mu.Unlock()
		return false
	}
	useful := !m.over && !p.gone
	if l != nil && !useful {
		err = errOver
	}
	p.try, try.err = nil, err
	upstream, again := p.upstream.Name, m.published
	switch {
	case err == nil:
		p.now, p.failed = l, nil
		p.unlistLocked()
	case err != errClosed: // which says nothing of the part
		p.failed = err
	}
	m.mu.Unlock()
	if err == nil {
		m.up.metrics.opened.WithLabelValues("opened").Inc()
		m.joined(l) // before initialize is answered, or it would be told as news
	}
	try.end()
	if err != nil && l != nil {
		m.endLink(l, nil)
	}
	if err != nil && useful {
		m.up.metrics.opened.WithLabelValues("failed").Inc()
		m.log.Warn("upstream session not opened", "upstream", upstream, "error", err)
		if again {
			m.up.reopen(p)
		}
	}
	return true
}

// joined lets the session know of a part that is open.
func (m *merged) joined(l *link) {
	m.up.known.learn(l.upstream, l.offers)
	m.changed()
	m.announce(l.offers.kinds())
	m.listenTo(l)
}

// tooLate says that a part took too long to open.
type tooLate struct{ after time.Duration }

// Error says it.
func (e *tooLate) Error() string { return e.ForClient() }

// ForClient returns the same for a client.
func (e *tooLate) ForClient() string { return fmt.Sprintf("not open within %v", e.after) }

// use returns the link of a part that is open, or can be opened now. A part that
// failed fails at once, as it is opened again by itself; one that takes long is not
// waited for longer than initialize would, unless this is the use that it waited for.
func (m *merged) use(ctx context.Context, p *part) (*link, error) {
	m.mu.Lock()
	l, failed, most := p.now, p.failed, openBudget(m.definition)
	if p.upstream.Lazy {
		most = openTimeout(p.upstream)
	}
	m.mu.Unlock()
	switch {
	case l != nil:
		return l, nil
	case failed != nil:
		return nil, failed
	}
	try := m.begin(p)
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-try.done:
	case <-timer.C:
		return nil, &stillOpening{}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case try.err != nil:
		return nil, try.err
	case p.now == nil:
		return nil, &stillOpening{} // it was lost again
	}
	return p.now, nil
}

// stillOpening says that a part is on its way.
type stillOpening struct{}

// Error says it.
func (*stillOpening) Error() string { return "is being opened" }

// ForClient returns the same for a client.
func (e *stillOpening) ForClient() string { return e.Error() }

// lose is told that an upstream has lost its session: it is opened anew with what the
// client said, in its turn or when it is used.
func (m *merged) lose(l *link) {
	m.mu.Lock()
	p := l.part
	first := p.now == l
	if first {
		p.now = nil
		m.unlistenLocked(l)
	}
	m.mu.Unlock()
	if first {
		m.log.Info("upstream had lost its session", "upstream", l.upstream.Name)
		m.up.reopen(p)
	}
}

// definitionOf returns the newest definition of a link's upstream.
func (m *merged) definitionOf(l *link) *config.Upstream {
	m.mu.Lock()
	defer m.mu.Unlock()
	return l.part.upstream
}
