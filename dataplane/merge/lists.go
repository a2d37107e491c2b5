package merge

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/leasehold/leasehold/dataplane/catalogue"
	"github.com/leasehold/leasehold/dataplane/mcp"
)

const (
	// fetchTime bounds the fetching of a list of a part, with all its pages.
	fetchTime = 30 * time.Second
	// listPatience is how long clients wait for a list of a slow part, from when it was
	// asked for: what comes later is announced.
	listPatience = 5 * time.Second
	// failedFor is after what time a part is asked again for a list that it did not give.
	failedFor = 5 * time.Second
	// freshFor is for how long a list is taken to be what the part has, if no stream
	// would tell of a change.
	freshFor = 2 * time.Second
	// tellAgain is when a list that has changed, and could not be fetched, is fetched again
	// though no client asks.
	tellAgain = 20 * time.Second
	// maxPages bounds the pages of a part's list.
	maxPages = 200
	// maxCursorBytes bounds a part's cursor.
	maxCursorBytes = 4 << 10
)

// fetch is the fetching of one list of a part.
type fetch struct {
	done  chan struct{}
	began time.Time
	// Guarded by the session's mu:
	again   bool // the list has changed meanwhile
	waiters int  // who look at the list themselves when it is there
}

// unlistLocked has the lists of a part fetched again at their next use. They stay
// listed until then.
func (p *part) unlistLocked() {
	p.fetched = [catalogue.Kinds]time.Time{}
	for _, f := range p.fetch {
		if f != nil {
			f.again = true
		}
	}
}

// unlist is unlistLocked for some kinds.
func (m *merged) unlist(p *part, kinds kindSet) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k := range catalogue.Kinds {
		if !kinds.has(k) {
			continue
		}
		p.fetched[k], p.stale = time.Time{}, p.stale.with(k)
		if f := p.fetch[k]; f != nil {
			f.again = true
		}
	}
}

// ready sees to it that the lists of some kinds are as new as they have to be, of one
// part or, if only is nil, of all that are open or can be. It waits for them, but not
// for long. The caller looks at what has changed.
func (m *merged) ready(ctx context.Context, kinds kindSet, only *part) {
	began := time.Now()
	for _, try := range m.openFor(kinds, only) {
		waitUntil(ctx, try.done, began.Add(listPatience))
	}
	fetches := m.fetchAll(kinds, only)
	for _, f := range fetches {
		waitUntil(ctx, f.done, f.began.Add(listPatience))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, f := range fetches {
		f.waiters--
	}
}

// waitUntil waits for done, until a time at most.
func waitUntil(ctx context.Context, done <-chan struct{}, most time.Time) {
	timer := time.NewTimer(time.Until(most))
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// openFor begins to open the parts that wait for their first use, if this is it: a lazy
// one whose lists are known stays as it is. What is being opened for other reasons is
// not waited for.
func (m *merged) openFor(kinds kindSet, only *part) (tries []*opening) {
	var parts []*part
	m.mu.Lock()
	for _, p := range m.parts {
		switch {
		case p.now != nil, p.failed != nil, only != nil && only != p:
		case p.upstream.Lazy && p.hasLocked(kinds), !p.upstream.Lazy && p.try != nil:
		default:
			parts = append(parts, p)
		}
	}
	m.mu.Unlock()
	for _, p := range parts {
		tries = append(tries, m.begin(p))
	}
	return tries
}

// hasLocked reports whether the lists of some kinds are known.
func (p *part) hasLocked(kinds kindSet) bool {
	for k := range catalogue.Kinds {
		if kinds.has(k) && p.lists[k] == nil {
			return false
		}
	}
	return true
}

// fetchAll begins to fetch what is not new enough.
func (m *merged) fetchAll(kinds kindSet, only *part) (fetches []*fetch) {
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.parts {
		if p.now == nil || only != nil && only != p {
			continue
		}
		for k := range catalogue.Kinds {
			if !kinds.has(k) {
				continue
			}
			if f := m.fetchLocked(p, k, now); f != nil {
				f.waiters++
				fetches = append(fetches, f)
			}
		}
	}
	return fetches
}

// fetchLocked returns the fetching of a list, or nil if the list is new enough.
func (m *merged) fetchLocked(p *part, k catalogue.Kind, now time.Time) *fetch {
	l := p.now
	switch {
	case p.fetch[k] != nil:
		return p.fetch[k]
	case m.over, !p.fetched[k].IsZero() && (p.watched[k] || now.Sub(p.fetched[k]) < freshFor):
		return nil
	case !l.offers.lists[k]:
		if p.lists[k] == nil || p.lists[k].Len() > 0 {
			m.setLocked(p, k, m.emptyList(k))
		}
		p.fetched[k], p.watched[k] = now, true
		return nil
	}
	f := &fetch{done: make(chan struct{}), began: now}
	watched := l.offers.changes[k] && m.listener.hears(l)
	if !m.up.spawn(func() { m.runFetch(l, k, f, watched) }) {
		return nil
	}
	p.fetch[k] = f
	return f
}

func (m *merged) emptyList(k catalogue.Kind) *catalogue.List {
	empty, _ := catalogue.Parse(k)
	return m.up.sharing.list(k, empty)
}

func (m *merged) setLocked(p *part, k catalogue.Kind, l *catalogue.List) {
	if p.lists[k] != l {
		p.lists[k] = l
		m.catalogue = nil
	}
}

// runFetch fetches a list. When that fails the part keeps the items that it had, and
// is asked again after a while.
func (m *merged) runFetch(l *link, k catalogue.Kind, f *fetch, watched bool) {
	ctx, cancel := context.WithTimeout(m.up.work, fetchTime)
	defer cancel()
	list, err := m.download(ctx, l, k)
	p := l.part
	m.mu.Lock()
	p.fetch[k] = nil
	if p.now == l {
		switch {
		case err != nil:
			p.fetched[k], p.watched[k] = time.Now().Add(failedFor-freshFor), false
		case f.again:
			m.setLocked(p, k, list)
			p.fetched[k] = time.Time{}
		default:
			m.setLocked(p, k, list)
			p.fetched[k], p.watched[k] = f.began, watched
			p.stale &^= kindSet(0).with(k)
		}
	}
	again, alone, stale := f.again, f.waiters == 0, p.stale.has(k)
	m.mu.Unlock()
	close(f.done)
	if err != nil {
		m.log.Warn("list not fetched", "upstream", l.upstream.Name, "list", k, "error", err)
		if stale {
			time.AfterFunc(tellAgain, func() { m.announce(kindSet(0).with(k)) })
		}
		return
	}
	if dropped, why := list.Dropped(); dropped > 0 {
		m.log.Warn("upstream lists items that cannot be offered", "upstream", l.upstream.Name, "list", k, "count", dropped, "first", why)
	}
	m.up.known.learnList(l.upstream, k, list)
	switch changed := kindSet(0).with(k); {
	case again:
		m.announce(changed)
	case alone:
		m.compare(changed)
	}
}

// download fetches all pages of a list.
func (m *merged) download(ctx context.Context, l *link, k catalogue.Kind) (*catalogue.List, error) {
	var pages [][]byte
	var params []byte
	size := 0
	for len(pages) < maxPages && size <= catalogue.MaxListBytes {
		page, err := m.ask(ctx, l, k.Method(), params)
		if failed := (*failure)(nil); errors.As(err, &failed) && failed.code == mcp.CodeMethodNotFound {
			return m.emptyList(k), nil
		}
		if err != nil {
			return nil, err
		}
		pages, size = append(pages, page), size+len(page)
		cursor, ok := mcp.Lookup(page, "nextCursor")
		if !ok || cursor[0] != '"' {
			params = nil
			break
		}
		if len(cursor) > maxCursorBytes {
			return nil, fmt.Errorf("cursor of %d bytes, at most %d are sent back", len(cursor), maxCursorBytes)
		}
		params = append(append([]byte(`{"cursor":`), cursor...), '}')
	}
	if params != nil {
		m.log.Warn("upstream lists more than is asked for", "upstream", l.upstream.Name, "list", k, "pages", len(pages), "bytes", size)
	}
	list, err := catalogue.Parse(k, pages...)
	if err != nil {
		return nil, err
	}
	return m.up.sharing.list(k, list), nil
}

// items returns the catalogue of what is known now.
func (m *merged) items() *catalogue.Catalogue {
	m.mu.Lock()
	if c := m.catalogue; c != nil {
		m.mu.Unlock()
		return c
	}
	lists := make([]*catalogue.Lists, len(m.parts))
	for i, p := range m.parts {
		own := p.lists
		lists[i] = &own
	}
	policy := m.definition.Policy
	m.mu.Unlock()
	c := m.up.sharing.catalogue(policy, lists)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.catalogue == nil && m.definition.Policy == policy && m.areLocked(lists) {
		m.catalogue = c
	}
	return c
}

// areLocked reports whether lists are those of the parts.
func (m *merged) areLocked(lists []*catalogue.Lists) bool {
	if len(lists) != len(m.parts) {
		return false
	}
	for i, p := range m.parts {
		if p.lists != *lists[i] {
			return false
		}
	}
	return true
}
