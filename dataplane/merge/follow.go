package merge

import (
	"context"

	"github.com/leasehold/leasehold/dataplane/catalogue"
	"github.com/leasehold/leasehold/dataplane/config"
)

// follow keeps the sessions to the newest definitions until ctx ends.
func (u *Upstream) follow(ctx context.Context) {
	for {
		changed := u.cfg.World.Changed()
		u.apply(u.cfg.World.Load())
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// apply has every session be what its gateway's definition says now.
func (u *Upstream) apply(world *config.Snapshot) {
	defined := make(map[place]bool)
	for _, g := range world.Gateways {
		for _, upstream := range g.Real() {
			defined[placeOf(upstream)] = true
		}
	}
	u.known.keep(defined)
	u.mu.Lock()
	sessions := make([]*merged, 0, len(u.sessions))
	for _, m := range u.sessions {
		sessions = append(sessions, m)
	}
	u.mu.Unlock()
	for _, m := range sessions {
		m.redefine()
	}
}

// redefine makes the session one of the newest definition, if it is not. Parts that connect as before
// stay as they are; the others are ended or opened, and the client is told of what that
// changes.
func (m *merged) redefine() {
	m.mu.Lock()
	next := m.definition
	if g := m.up.cfg.World.Load().Gateways[m.gateway]; g != nil && g.Upstream.Merged != nil { // under mu, or it could be older than another's
		next = g.Upstream.Merged
	}
	if m.over || !m.published || m.definition == next {
		m.mu.Unlock()
		return
	}
	old := m.parts
	m.definition, m.parts, m.catalogue = next, nil, nil
	var open []*part
	for _, upstream := range next.Parts {
		p := sameIn(old, upstream)
		if p == nil {
			p = &part{of: m, upstream: upstream, lists: listsOf(old, upstream.Name)}
			if k := m.up.known.look(upstream); k != nil && upstream.Lazy {
				p.lists = k.lists
			} else {
				open = append(open, p)
			}
		}
		p.upstream = upstream
		m.parts = append(m.parts, p)
	}
	links, gone := m.removeLocked(old)
	if m.gate == nil {
		m.pending, open = append(m.pending, open...), nil
	}
	m.mu.Unlock()
	m.up.forgetReopening(gone)
	for _, l := range links {
		m.log.Info("upstream is not the session's any more", "upstream", l.upstream.Name)
		m.retire(l)
	}
	for _, p := range open {
		m.begin(p)
	}
	m.compare(allKinds)
	if len(gone) > 0 {
		m.changed()
	}
}

// sameIn returns the part that connects as upstream does; nil if there is none.
func sameIn(parts []*part, upstream *config.Upstream) *part {
	for _, p := range parts {
		if p.upstream.Name == upstream.Name && p.upstream.Fingerprint == upstream.Fingerprint {
			return p
		}
	}
	return nil
}

// listsOf returns what the part of a name has listed: it may list the same where it is
// now, which is told once it is open.
func listsOf(parts []*part, name string) (lists catalogue.Lists) {
	for _, p := range parts {
		if p.upstream.Name == name {
			return p.lists
		}
	}
	return lists
}

// removeLocked removes the parts that the session had and has no more.
func (m *merged) removeLocked(old []*part) (links []*link, gone []*part) {
	for _, p := range old {
		if sameIn(m.parts, p.upstream) == p {
			continue
		}
		p.gone = true
		gone = append(gone, p)
		if l := p.now; l != nil {
			p.now = nil
			links = append(links, l)
			m.unlistenLocked(l)
		}
	}
	for s := range m.subscribed {
		if p := m.partLocked(s.part); p == nil {
			delete(m.subscribed, s)
		}
	}
	return links, gone
}
