package merge

import (
	"time"

	"github.com/leasehold/leasehold/dataplane/catalogue"
	"github.com/leasehold/leasehold/dataplane/mcp"
)

// debounce is how long changes of lists are gathered before they are looked at.
const debounce = 100 * time.Millisecond

// shown is what the client has seen of the lists. It is guarded by the session's mu.
type shown struct {
	listed  kindSet // the client was given these lists,
	hash    [catalogue.Kinds]catalogue.Hash
	dirty   kindSet     // may have changed since, which is to be looked at
	timer   *time.Timer // does that; nil while nothing is dirty
	pending kindSet     // have changed, which the client is to be told
}

func (s *shown) stopLocked() {
	if s.timer != nil {
		s.timer.Stop()
	}
}

// announce is told that lists may have changed: if they have, the client is told so
// once.
func (m *merged) announce(kinds kindSet) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if kinds == 0 || m.over || !m.published {
		return
	}
	m.shown.dirty |= kinds
	if m.shown.timer == nil {
		m.shown.timer = time.AfterFunc(debounce, func() { m.up.spawn(m.lookAgain) })
	}
}

// lookAgain fetches lists that may have changed, and tells the client of those that
// have. Of a list that the client has not asked for here it is told in any case: it may
// have it from the session's former owner, or wait for it.
func (m *merged) lookAgain() {
	m.mu.Lock()
	s := &m.shown
	dirty := s.dirty
	s.dirty, s.timer = 0, nil
	known := dirty & s.listed
	m.pendLocked(dirty &^ s.listed)
	m.mu.Unlock()
	if known != 0 {
		m.ready(m.up.work, known, nil)
		m.compare(known)
	}
}

// compare tells the client of lists that are not what it was given, unless some are
// being fetched still.
func (m *merged) compare(kinds kindSet) {
	items := m.items()
	m.mu.Lock()
	defer m.mu.Unlock()
	s := &m.shown
	for k := range catalogue.Kinds {
		if kinds.has(k) && s.listed.has(k) && !m.fetchingLocked(k) && items.Hash(k) != s.hash[k] {
			s.hash[k] = items.Hash(k)
			m.pendLocked(kindSet(0).with(k))
		}
	}
}

func (m *merged) fetchingLocked(k catalogue.Kind) bool {
	for _, p := range m.parts {
		if p.fetch[k] != nil && p.now != nil && p.lists[k] != nil {
			return true
		}
	}
	return false
}

// pendLocked tells the client that lists have changed, now or as soon as it listens.
func (m *merged) pendLocked(kinds kindSet) {
	m.shown.pending |= kinds
	if m.listener != nil && m.shown.pending != 0 {
		m.listener.announce(m.takePendingLocked())
	}
}

// takePendingLocked returns the notifications that the client is to get.
func (m *merged) takePendingLocked() (messages [][]byte) {
	pending := m.shown.pending
	m.shown.pending = 0
	for _, list := range [...]struct {
		kinds  kindSet
		method string
	}{
		{toolKinds, mcp.MethodToolsListChanged},
		{promptKinds, mcp.MethodPromptsListChanged},
		{resourceKinds, mcp.MethodResourcesListChanged},
	} {
		if pending&list.kinds != 0 {
			messages = append(messages, []byte(`{"jsonrpc":"2.0","method":"`+list.method+`"}`))
		}
	}
	return messages
}

// gaveLocked notes that the client was given a list.
func (m *merged) gaveLocked(k catalogue.Kind, hash catalogue.Hash) {
	m.shown.listed = m.shown.listed.with(k)
	m.shown.hash[k] = hash
	m.shown.pending &^= kindSet(0).with(k)
}
