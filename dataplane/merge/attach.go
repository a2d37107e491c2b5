package merge

import (
	"cmp"
	"slices"
	"strings"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Parts returns the upstream sessions of a session as it is now; nil if it is not
// there.
func (u *Upstream) Parts(id string) (parts []session.Part) {
	m := u.find(id)
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range m.openLocked() {
		parts = append(parts, session.Part{
			Upstream: l.upstream.Name, ID: l.id, Version: l.version, Address: l.address,
			Class: classOf(l.upstream, l.id), Fingerprint: l.upstream.Fingerprint,
		})
	}
	return parts
}

// Cursors implements session.Composite.
func (u *Upstream) Cursors(id, after string) map[string]string {
	m := u.find(id)
	at, ok := parseCursor(after)
	if m == nil || !ok {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	cursors := make(map[string]string, len(at))
	for _, l := range m.openLocked() {
		if p, ok := at[l.upstream.Name]; ok && p.tag == tagOf(l) {
			cursors[l.upstream.Name] = p.id
		}
	}
	return cursors
}

func classOf(u *config.Upstream, id string) leaseholdv1.Class {
	switch {
	case u.Pinned():
		return leaseholdv1.Class_CLASS_PINNED
	case id == "":
		return leaseholdv1.Class_CLASS_REBUILDABLE
	}
	return leaseholdv1.Class_CLASS_RESUMABLE
}

// Wishes implements session.Composite.
func (u *Upstream) Wishes(id string) (wishes session.Wishes) {
	m := u.find(id)
	if m == nil {
		return wishes
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	wishes.LogLevel = m.level // which is not changed in place
	for s := range m.subscribed {
		wishes.Subscriptions = append(wishes.Subscriptions, session.Subscription{Upstream: s.part, URI: s.uri})
	}
	slices.SortFunc(wishes.Subscriptions, func(a, b session.Subscription) int {
		return cmp.Or(strings.Compare(a.Upstream, b.Upstream), strings.Compare(a.URI, b.URI))
	})
	return wishes
}

// wish has the session know what was recorded of its client's wishes, as far as there is
// a part that they are for.
func (m *merged) wish(wishes session.Wishes) {
	m.level = wishes.LogLevel
	for _, s := range wishes.Subscriptions {
		if m.partLocked(s.Upstream) == nil {
			continue
		}
		if m.subscribed == nil {
			m.subscribed = make(map[subscription]bool, len(wishes.Subscriptions))
		}
		m.subscribed[subscription{s.Upstream, s.URI}] = true
	}
}

// Attach makes a session of what was recorded of one, and returns its id: without
// initialize where the upstream has the session still. What could be resumed is; what had
// nothing to lose is opened when it is used, or at once if the client waits for what it
// has subscribed to there; what went with its worker is opened anew,
// of which the client is told. What is opened is told of the wishes. Nothing is sent before the first request with a Session.
func (u *Upstream) Attach(v *config.Upstream, client session.Client, wishes session.Wishes, parts []session.Part) (id string) {
	m := u.newMerged(v.Gateway, u.newest(v), client)
	m.initialized, m.published = true, true
	m.wish(wishes)
	recorded := make(map[string]session.Part, len(parts))
	for _, one := range parts {
		recorded[one.Upstream] = one
	}
	lost := false
	for _, p := range m.parts {
		k := u.known.look(p.upstream)
		if k != nil {
			p.lists = k.lists
		}
		switch one, ok := recorded[p.upstream.Name]; {
		case ok && one.Fingerprint == p.upstream.Fingerprint && one.Class == leaseholdv1.Class_CLASS_RESUMABLE && one.ID != "":
			p.now = &link{part: p, upstream: p.upstream, id: one.ID, version: one.Version, address: one.Address, offers: nothingKnown}
			if k != nil {
				p.now.offers = k.offers
			}
			p.after = one.Cursor
		case ok && one.Fingerprint == p.upstream.Fingerprint && one.Class == leaseholdv1.Class_CLASS_REBUILDABLE:
			if len(m.subscriptionsLocked(p.upstream.Name)) > 0 {
				m.pending = append(m.pending, p)
			}
		case ok:
			lost = true
			m.log.Info("upstream session did not outlive its owner, a new one is opened", "upstream", p.upstream.Name)
			m.pending = append(m.pending, p)
		case !p.upstream.Lazy || k == nil:
			m.pending = append(m.pending, p)
		}
	}
	if lost {
		m.shown.pending = allKinds
	}
	u.put(m)
	return m.id
}
