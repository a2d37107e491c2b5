package merge

import (
	"sync"

	"github.com/leasehold/leasehold/dataplane/catalogue"
	"github.com/leasehold/leasehold/dataplane/config"
)

// place is an upstream under one set of connection settings.
type place struct {
	gateway, upstream string
	fingerprint       [16]byte
}

func placeOf(u *config.Upstream) place { return place{u.Gateway, u.Name, u.Fingerprint} }

// known is what upstreams had last, as far as this worker knows from all sessions: it
// stands in for what a session does not know yet of a part that it has not opened. The
// zero value knows nothing. Safe for concurrent use.
type known struct {
	mu sync.Mutex // guards of
	of map[place]*knowledge
}

// knowledge is of one upstream. It is not changed.
type knowledge struct {
	offers *offers
	lists  catalogue.Lists
}

// look returns what is known of an upstream; nil for nothing.
func (k *known) look(u *config.Upstream) *knowledge {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.of[placeOf(u)]
}

// learn takes what an upstream said of itself.
func (k *known) learn(u *config.Upstream, o *offers) {
	if old := k.look(u); o.unknown || old != nil && old.offers == o {
		return
	}
	k.change(u, func(next *knowledge) { next.offers = o })
}

// learnList takes what an upstream lists.
func (k *known) learnList(u *config.Upstream, kind catalogue.Kind, l *catalogue.List) {
	if old := k.look(u); old != nil && old.lists[kind] == l {
		return
	}
	k.change(u, func(next *knowledge) { next.lists[kind] = l })
}

func (k *known) change(u *config.Upstream, change func(*knowledge)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	next := &knowledge{offers: nothingKnown}
	if old := k.of[placeOf(u)]; old != nil {
		*next = *old
	}
	change(next)
	if k.of == nil {
		k.of = make(map[place]*knowledge)
	}
	k.of[placeOf(u)] = next
}

// keep forgets all upstreams but those that are still defined.
func (k *known) keep(defined map[place]bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for p := range k.of {
		if !defined[p] {
			delete(k.of, p)
		}
	}
}
