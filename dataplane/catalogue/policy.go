package catalogue

import (
	"slices"
	"strings"

	"github.com/leasehold/leasehold/dataplane/mcp"
)

// Kind is a kind of items.
type Kind uint8

// The kinds of items.
const (
	Tools Kind = iota
	Prompts
	Resources
	Templates // resource templates
)

// Kinds is how many kinds there are: for k := range catalogue.Kinds.
const Kinds Kind = 4

var kinds = [Kinds]struct {
	name, method, member, key string
	paths                     [2][]string
}{
	{"tools", mcp.MethodToolsList, "tools", "name", pathsOf("name")},
	{"prompts", mcp.MethodPromptsList, "prompts", "name", pathsOf("name")},
	{"resources", mcp.MethodResourcesList, "resources", "uri", pathsOf("uri")},
	{"resource templates", mcp.MethodResourcesTemplates, "resourceTemplates", "uriTemplate", pathsOf("uriTemplate")},
}

// What of an item is looked for, by the place in its paths.
const (
	pathKey = iota
	pathDescription
)

func pathsOf(key string) [2][]string {
	return [2][]string{pathKey: {key}, pathDescription: {"description"}}
}

// String returns what the items are called in messages, such as "resource templates".
func (k Kind) String() string { return kinds[k].name }

// Method returns the method that lists the items.
func (k Kind) Method() string { return kinds[k].method }

// Member returns the member of a list's result that has the items.
func (k Kind) Member() string { return kinds[k].member }

// Key returns the member of an item that identifies it. What that holds is called
// the item's name in this package, also if it is a URI or a template.
func (k Kind) Key() string { return kinds[k].key }

func (k Kind) paths() [][]string { return kinds[k].paths[:] }

// hasURIs reports whether what identifies the items are URIs or templates of them.
func (k Kind) hasURIs() bool { return k == Resources || k == Templates }

// Mode is a rule of naming for tools and prompts.
type Mode uint8

// The rules of naming.
const (
	Prefix Mode = iota // {upstream}{separator}{name}
	Keep               // the name stays; of several there is the first upstream's
)

// DefaultSeparator stands between the names of upstream and item if nothing else
// is asked for.
const DefaultSeparator = "_"

// Config is what a policy is made of.
type Config struct {
	Mode      Mode
	Separator string // with Prefix; DefaultSeparator if it is empty
	// Upstreams are the servers in the order of the definition.
	Upstreams []Upstream
}

// Upstream says which items of a server there are for clients.
type Upstream struct {
	Name   string // has no + and is no other upstream's
	Select [Kinds]Selection
}

// Selection says which items of a kind there are for clients, by the names that
// the upstream gives. In patterns a * stands for any number of any characters.
type Selection struct {
	Include   []string            // patterns; empty for all
	Exclude   []string            // patterns; they win over Include
	Overrides map[string]Override // by exact name
}

// Override changes one item. Empty fields change nothing.
type Override struct {
	Name        string // in place of what the rule of naming gives; for tools and prompts
	Description string
	Hide        bool
}

// Policy is a compiled [Config].
type Policy struct {
	mode      Mode
	separator string
	upstreams []upstreamRules
	index     map[string]int
	blank     *Catalogue // while nothing is known
}

type upstreamRules struct {
	name string
	of   [Kinds]rules
}

// rules is a compiled Selection.
type rules struct {
	include, exclude patterns
	// plainly are the patterns for URIs in their plain spelling; nil for other kinds
	// and if all is shown.
	plainly   *plainRules
	overrides map[string]Override
	renamed   map[string][]string // the names that an override gives a new one, by that, sorted
}

type plainRules struct{ include, exclude patterns }

// NewPolicy compiles c, which it does not keep.
func NewPolicy(c Config) *Policy {
	p := &Policy{mode: c.Mode, separator: c.Separator, index: make(map[string]int, len(c.Upstreams))}
	if p.separator == "" {
		p.separator = DefaultSeparator
	}
	for i, u := range c.Upstreams {
		compiled := upstreamRules{name: u.Name}
		for k, s := range u.Select {
			compiled.of[k] = newRules(Kind(k), s)
		}
		p.upstreams = append(p.upstreams, compiled)
		p.index[u.Name] = i
	}
	p.blank = Merge(p, make([]*Lists, p.Len()))
	return p
}

func newRules(k Kind, s Selection) rules {
	r := rules{
		include: newPatterns(s.Include), exclude: newPatterns(s.Exclude),
		overrides: make(map[string]Override, len(s.Overrides)), renamed: make(map[string][]string),
	}
	for name, o := range s.Overrides {
		if k.hasURIs() {
			o.Name = ""
		}
		r.overrides[name] = o
		if o.Hide {
			r.exclude.add(name)
		}
		if o.Name != "" {
			r.renamed[o.Name] = append(r.renamed[o.Name], name)
		}
	}
	for _, names := range r.renamed {
		slices.Sort(names)
	}
	if k == Resources && !r.showsAll() {
		r.plainly = newPlainRules(s)
	}
	return r
}

func newPlainRules(s Selection) *plainRules {
	spell := func(texts []string) patterns {
		all := make([]string, len(texts))
		for i, text := range texts {
			all[i] = plain(text)
		}
		return newPatterns(all)
	}
	r := &plainRules{include: spell(s.Include), exclude: spell(s.Exclude)}
	for uri, o := range s.Overrides {
		if o.Hide {
			r.exclude.add(plain(uri))
		}
	}
	return r
}

// Len returns how many upstreams there are.
func (p *Policy) Len() int { return len(p.upstreams) }

// Name returns the name of an upstream.
func (p *Policy) Name(upstream int) string { return p.upstreams[upstream].name }

// Shows reports whether the filters let clients see and use what an upstream calls
// name. Of a URI that holds in all the spellings that a server may take for the same.
func (p *Policy) Shows(k Kind, upstream int, name string) bool {
	return p.upstreams[upstream].of[k].shows(name)
}

func (r *rules) showsAll() bool { return r.include.empty() && r.exclude.empty() }

func (r *rules) shows(name string) bool {
	if !passes(&r.include, &r.exclude, name) {
		return false
	}
	if r.plainly == nil {
		return true
	}
	spelled := plain(name)
	if r.include.exact[name] { // as it is spelled
		return !r.plainly.exclude.match(spelled)
	}
	return passes(&r.plainly.include, &r.plainly.exclude, spelled)
}

func passes(include, exclude *patterns, name string) bool {
	return !exclude.match(name) && (include.empty() || include.match(name))
}

// ClientName returns how clients call the tool or prompt that an upstream calls
// name, if no other item takes that.
func (p *Policy) ClientName(k Kind, upstream int, name string) string {
	client, _ := p.clientName(k, upstream, name)
	return client
}

// clientName also returns what the name has in front of the upstream's, if that is all.
func (p *Policy) clientName(k Kind, upstream int, name string) (client, prefix string) {
	u := &p.upstreams[upstream]
	if o := u.of[k].overrides[name]; o.Name != "" {
		return o.Name, ""
	}
	if p.mode == Keep {
		return name, ""
	}
	prefix = u.name + p.separator
	return prefix + name, prefix
}

// Candidates returns the tools or prompts that clients may mean by name as far as
// the policy can tell, in the order in which they take it. Those that are not shown
// are not among them.
func (p *Policy) Candidates(k Kind, name string) []Target {
	var all []Target
	for i := range p.upstreams {
		for _, own := range p.upstreamNames(k, i, name) {
			if p.Shows(k, i, own) {
				all = append(all, Target{i, own})
			}
		}
	}
	return all
}

// upstreamNames returns the names of tools or prompts of an upstream that clients
// would call name.
func (p *Policy) upstreamNames(k Kind, upstream int, name string) []string {
	u := &p.upstreams[upstream]
	r := &u.of[k]
	all := slices.Clone(r.renamed[name])
	rest, ok := name, true
	if p.mode == Prefix {
		rest, ok = strings.CutPrefix(name, u.name+p.separator)
	}
	if ok && r.overrides[rest].Name == "" {
		all = append(all, rest)
	}
	return all
}
