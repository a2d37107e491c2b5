package catalogue

import (
	"crypto/sha256"
	"slices"
	"sort"
)

// Catalogue is what several upstreams list, as clients see it.
type Catalogue struct {
	policy    *Policy
	known     [][Kinds]bool // by upstream
	of        [Kinds]merged
	fitting   []fitting // by upstream
	open      []owned   // the templates that are listed as they are
	conflicts Conflicts
}

// merged is the catalogue of one kind.
type merged struct {
	raw    []byte            // the items, with commas between them
	ends   []int             // where each item ends
	routes map[string]Target // by the names that clients use
	hash   Hash
}

// fitting are the templates of an upstream that URIs are matched with.
type fitting struct{ shown, hidden []*template }

// owned is a template with the place of its upstream.
type owned struct {
	*template
	upstream int
}

// Target is an item where it comes from.
type Target struct {
	Upstream int    // its place in the policy
	Name     string // what the upstream calls it
}

// Conflict is an item that is not listed because another one has its name.
type Conflict struct {
	Kind Kind
	Name string // as clients call it
	// Listed has the name, and Hidden does not.
	Listed, Hidden Target
}

// Conflicts are items that are not listed because others have their names.
type Conflicts struct {
	First []Conflict // at most MaxConflicts
	Total int
}

// MaxConflicts is how many conflicts are remembered one by one.
const MaxConflicts = 256

// Merge makes the catalogue of upstreams that list these. lists has one entry for
// each upstream of p, nil if nothing of it is known: it then lists nothing, and
// Route tells what may be its. Items are in the order of the upstreams, and of each
// upstream in its own.
func Merge(p *Policy, lists []*Lists) *Catalogue {
	c := &Catalogue{policy: p, known: make([][Kinds]bool, p.Len()), fitting: make([]fitting, p.Len())}
	m := merger{c: c, lists: lists}
	for i, l := range lists {
		for k := range Kinds {
			c.known[i][k] = l != nil && l[k] != nil
		}
	}
	m.names(Tools)
	m.names(Prompts)
	m.uris()
	return c
}

// Len returns how many items of a kind there are.
func (c *Catalogue) Len(k Kind) int { return len(c.of[k].ends) }

// Hash identifies what is listed of a kind: it changes exactly when the list does.
func (c *Catalogue) Hash(k Kind) Hash { return c.of[k].hash }

// Conflicts returns the items that are not listed because others have their names.
func (c *Catalogue) Conflicts() Conflicts { return c.conflicts }

// Page returns items from the place from on, as what stands between the brackets of
// a JSON array: at most maxItems, and at most maxBytes unless the first one alone is
// longer. next is the place behind them, and more tells that there is an item there.
// A place beyond the end has nothing. The bytes are the catalogue's own and must not
// be changed; nothing is copied.
func (c *Catalogue) Page(k Kind, from, maxItems, maxBytes int) (items []byte, next int, more bool) {
	m := &c.of[k]
	if from < 0 || from >= len(m.ends) {
		return nil, len(m.ends), false
	}
	begin := 0
	if from > 0 {
		begin = m.ends[from-1] + len(",")
	}
	rest := m.ends[from:]
	n := sort.SearchInts(rest, begin+maxBytes+1) // the first one that ends too late
	n = min(max(n, 1), max(maxItems, 1), len(rest))
	end := rest[n-1]
	return m.raw[begin:end:end], from + n, n < len(rest)
}

// merger makes a Catalogue.
type merger struct {
	c     *Catalogue
	lists []*Lists
}

// pick is an item that is to be listed.
type pick struct {
	upstream int
	list     *List
	item     int
	name     string // as clients call it
	prefix   string // what that has in front of the upstream's name; "" if it is no such
}

// each calls f for the items of a kind that the filters show.
func (m *merger) each(k Kind, f func(upstream int, l *List, item int)) {
	for u, lists := range m.lists {
		if lists == nil || lists[k] == nil {
			continue
		}
		for i := range lists[k].items {
			if m.c.policy.Shows(k, u, lists[k].items[i].name) {
				f(u, lists[k], i)
			}
		}
	}
}

// names merges tools or prompts.
func (m *merger) names(k Kind) {
	p := m.c.policy
	var picks []pick
	routes := make(map[string]Target)
	m.each(k, func(u int, l *List, i int) {
		own := l.items[i].name
		name, prefix := p.clientName(k, u, own)
		if first, taken := routes[name]; taken {
			m.conflict(Conflict{k, name, first, Target{u, own}})
			return
		}
		routes[name] = Target{u, own}
		picks = append(picks, pick{u, l, i, name, prefix})
	})
	m.list(k, picks, routes)
}

func (m *merger) conflict(c Conflict) {
	all := &m.c.conflicts
	if all.Total++; len(all.First) < MaxConflicts {
		all.First = append(all.First, c)
	}
}

// list writes down what is listed of a kind.
func (m *merger) list(k Kind, picks []pick, routes map[string]Target) {
	size := 0
	for _, one := range picks {
		it, raw := one.list.at(one.item)
		size += len(raw) + len(one.name) + 1
		if one.name == it.name {
			size -= len(one.name)
		}
	}
	out := merged{raw: make([]byte, 0, size), ends: make([]int, 0, len(picks)), routes: routes}
	for i, one := range picks {
		if i > 0 {
			out.raw = append(out.raw, ',')
		}
		description := m.c.policy.upstreams[one.upstream].of[k].overrides[one.list.items[one.item].name].Description
		out.raw = one.appendTo(out.raw, description)
		out.ends = append(out.ends, len(out.raw))
	}
	out.raw = slices.Clip(out.raw)
	sum := sha256.Sum256(out.raw)
	out.hash = Hash(sum[:16])
	m.c.of[k] = out
}
