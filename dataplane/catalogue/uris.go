package catalogue

import (
	"slices"
	"sort"
	"strings"
)

// uriMark stands between the name of an upstream and a URI that would not lead to
// that upstream without it. No name of an upstream has it.
const uriMark = "+"

// several stands for the owner of what more than one upstream has.
const several = -1

// uris merges resources and templates. Their names stay where they lead nowhere else:
// a URI that one upstream only lists; a template if no URI can fit it and be another
// upstream's. Nothing stays that begins, or may begin, as if it had a mark.
func (m *merger) uris() {
	resources := m.resources()
	unmarked := slices.DeleteFunc(m.templates(), func(t owned) bool { return m.c.policy.mayMark(t.template) })
	var picks []pick
	routes := make(map[string]Target)
	m.each(Templates, func(u int, l *List, i int) {
		it := &l.items[i]
		one := pick{upstream: u, list: l, item: i, name: it.name}
		if t := (owned{it.template, u}); !m.c.policy.mayMark(t.template) && alone(t, unmarked, resources) {
			m.c.open = append(m.c.open, t)
		} else {
			one.mark(m.c.policy)
		}
		routes[one.name] = Target{u, it.name}
		picks = append(picks, one)
	})
	m.list(Templates, picks, routes)
}

// mark puts the name of the upstream in front of the item's.
func (p *pick) mark(policy *Policy) {
	p.prefix = policy.upstreams[p.upstream].name + uriMark
	p.name = p.prefix + p.name
}

// ownedURI is a URI with the place of its upstream.
type ownedURI struct {
	uri      string
	upstream int
}

// resources merges the resources and returns those whose URIs stay, sorted by them.
func (m *merger) resources() []ownedURI {
	owners := make(map[string]int)
	m.each(Resources, func(u int, l *List, i int) {
		uri := l.items[i].name
		if first, ok := owners[uri]; ok && first != u {
			u = several
		}
		owners[uri] = u
	})
	var picks []pick
	var kept []ownedURI
	routes := make(map[string]Target)
	m.each(Resources, func(u int, l *List, i int) {
		uri := l.items[i].name
		one := pick{upstream: u, list: l, item: i, name: uri}
		if _, _, marked := m.c.policy.cutMark(uri); marked || owners[uri] == several {
			one.mark(m.c.policy)
		} else {
			kept = append(kept, ownedURI{uri, u})
		}
		routes[one.name] = Target{u, uri}
		picks = append(picks, one)
	})
	m.list(Resources, picks, routes)
	slices.SortFunc(kept, func(a, b ownedURI) int { return strings.Compare(a.uri, b.uri) })
	return kept
}

// templates returns all templates that are shown, and notes all by their upstreams.
func (m *merger) templates() []owned {
	var shown []owned
	for u, lists := range m.lists {
		if lists == nil || lists[Templates] == nil {
			continue
		}
		f := &m.c.fitting[u]
		for _, it := range lists[Templates].items {
			if !m.c.policy.Shows(Templates, u, it.name) {
				f.hidden = append(f.hidden, it.template)
				continue
			}
			f.shown = append(f.shown, it.template)
			shown = append(shown, owned{it.template, u})
		}
	}
	return shown
}

// alone reports whether no URI fits t and fits another upstream's template or is
// another upstream's resource.
func alone(t owned, others []owned, kept []ownedURI) bool {
	for _, o := range others {
		if o.upstream != t.upstream && t.mayMeet(o.template) {
			return false
		}
	}
	begin := t.texts[0]
	from := sort.Search(len(kept), func(i int) bool { return kept[i].uri >= begin })
	for _, o := range kept[from:] {
		if !strings.HasPrefix(o.uri, begin) {
			break
		}
		if o.upstream != t.upstream && strings.HasSuffix(o.uri, t.last()) {
			return false
		}
	}
	return true
}

// hides reports whether uri, which is no resource that is listed, fits a template that
// is not shown. What only a lenient server takes for an expansion of that does not
// count if it is one of a template that is shown.
func (f *fitting) hides(uri string) bool {
	if len(f.hidden) == 0 {
		return false
	}
	spelled := plain(uri)
	fits := func(t *template) bool { return t.fits(uri) || t.fits(spelled) }
	mayFit := func(t *template) bool { return t.mayFit(uri) || t.mayFit(spelled) }
	return slices.ContainsFunc(f.hidden, fits) ||
		slices.ContainsFunc(f.hidden, mayFit) && !slices.ContainsFunc(f.shown, fits)
}

// mayMark reports whether an expansion of t may begin with a mark.
func (p *Policy) mayMark(t *template) bool {
	return slices.ContainsFunc(p.upstreams, func(u upstreamRules) bool { return t.mayBegin(u.name + uriMark) })
}

// cutMark cuts the name of an upstream and the mark from a URI.
func (p *Policy) cutMark(uri string) (upstream int, own string, ok bool) {
	name, own, ok := strings.Cut(uri, uriMark)
	if !ok {
		return 0, "", false
	}
	upstream, ok = p.index[name]
	return upstream, own, ok
}
