package catalogue

// Verdict is what a catalogue says of a name.
type Verdict uint8

// What is known of a name.
const (
	// Unknown says that no item has the name.
	Unknown Verdict = iota
	// Known says that the target is what is meant: an item that is listed, a URI that
	// may fit a template that is, or a URI that says itself whose it is; and that no
	// filter forbids it.
	Known
	// Hidden says that the target is there, or may be, but not for clients. They are
	// told the same as of what is unknown.
	Hidden
	// Pending says that it depends on a list of the target's upstream that is not
	// known; the filters do not forbid it. When the lists are known, ask again: with
	// Keep, or an ambiguous separator, another upstream may follow. If the lists
	// cannot be had, the upstream is what is to be named in the error.
	Pending
)

// Route tells what clients mean by name: for Tools and Prompts a name, for Resources
// a URI, listed or not, for Templates a template.
func (c *Catalogue) Route(k Kind, name string) (Target, Verdict) {
	if t, ok := c.of[k].routes[name]; ok {
		return t, Known
	}
	switch k {
	case Resources:
		return c.routeURI(name)
	case Templates:
		return c.routeTemplate(name)
	}
	return c.absent(k, func(u int) []string { return c.policy.upstreamNames(k, u, name) })
}

// Guess is Route while no list is known: Pending if only the upstream's own lists can
// tell, Known for what a URI says.
func (p *Policy) Guess(k Kind, name string) (Target, Verdict) { return p.blank.Route(k, name) }

// ClientURI returns what a URI that an upstream uses, in a result or a notification,
// is for clients: itself, where Route finds exactly that upstream's by it, otherwise
// with the upstream's name in front. Route of it gives the upstream and the URI.
func (c *Catalogue) ClientURI(upstream int, uri string) string {
	if t, verdict := c.Route(Resources, uri); verdict == Known && t == (Target{upstream, uri}) {
		return uri
	}
	return c.policy.upstreams[upstream].name + uriMark + uri
}

// settled reports whether it is known what there is of a kind. What else than the
// resources that it lists an upstream has is told by its templates.
func (c *Catalogue) settled(k Kind, upstream int) bool {
	known := &c.known[upstream]
	return known[k] && (k != Resources || known[Templates])
}

// absent tells of a name that is not listed whether an upstream may have it, which
// would call it what own returns.
func (c *Catalogue) absent(k Kind, own func(upstream int) []string) (Target, Verdict) {
	hidden, verdict := Target{}, Unknown
	for u := range c.policy.upstreams {
		for _, name := range own(u) {
			switch {
			case !c.policy.Shows(k, u, name):
				if verdict == Unknown {
					hidden, verdict = Target{u, name}, Hidden
				}
			case !c.settled(k, u):
				return Target{u, name}, Pending
			}
		}
	}
	return hidden, verdict
}

func (c *Catalogue) routeTemplate(name string) (Target, Verdict) {
	only, rest, marked := c.policy.cutMark(name)
	if t, ok := c.of[Templates].routes[rest]; ok && marked && t == (Target{only, rest}) {
		return t, Known // listed without the mark
	}
	return c.absent(Templates, func(u int) []string {
		switch {
		case !marked:
			return []string{name}
		case u == only:
			return []string{rest}
		}
		return nil
	})
}

func (c *Catalogue) routeURI(uri string) (Target, Verdict) {
	if u, rest, marked := c.policy.cutMark(uri); marked {
		return c.within(u, rest)
	}
	if len(uri) > MaxNameBytes {
		return Target{}, Unknown
	}
	for _, t := range c.open {
		if t.mayFit(uri) {
			return c.within(t.upstream, uri)
		}
	}
	return c.absent(Resources, func(int) []string { return []string{uri} })
}

// within tells of a URI that can be only this upstream's whether clients may use it.
func (c *Catalogue) within(upstream int, uri string) (Target, Verdict) {
	t, known := Target{upstream, uri}, &c.known[upstream]
	switch {
	case len(uri) > MaxNameBytes:
		return Target{}, Unknown
	case c.lists(t):
		return t, Known
	case !c.policy.Shows(Resources, upstream, uri):
		return t, Hidden
	case !known[Templates] && !c.policy.upstreams[upstream].of[Templates].showsAll():
		return t, Pending
	case !c.fitting[upstream].hides(uri):
		return t, Known
	case !known[Resources]:
		return t, Pending
	}
	return t, Hidden
}

// lists reports whether the resource is listed, under whatever name.
func (c *Catalogue) lists(t Target) bool {
	routes := c.of[Resources].routes
	plain, ok := routes[t.Name]
	if ok && plain == t {
		return true
	}
	_, ok = routes[c.policy.upstreams[t.Upstream].name+uriMark+t.Name]
	return ok
}
