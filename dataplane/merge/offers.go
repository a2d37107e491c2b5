package merge

import (
	"crypto/sha256"
	"slices"

	"github.com/leasehold/leasehold/dataplane/catalogue"
	"github.com/leasehold/leasehold/dataplane/mcp"
)

// Bounds of what a part says of itself.
const (
	maxOffers       = 64 << 10 // its capabilities
	maxInstructions = 8 << 10
)

// offers is what a part said of itself in its answer to initialize. It is not changed.
type offers struct {
	key [32]byte
	// unknown says that the part was asked by another worker, and this one does not
	// know: it may have anything.
	unknown bool

	lists        [catalogue.Kinds]bool
	changes      [catalogue.Kinds]bool // it tells when the list changes
	subscribe    bool
	logging      bool
	completions  bool
	tasks        bool
	capabilities []byte // as they came; an object
	instructions string
}

// nothingKnown stands for a part of which only its session id is known.
var nothingKnown = &offers{unknown: true, lists: [catalogue.Kinds]bool{true, true, true, true},
	subscribe: true, logging: true, completions: true, tasks: true, capabilities: []byte("{}")}

// capabilityOf is the capability of each kind of list.
var capabilityOf = [catalogue.Kinds]string{"tools", "prompts", "resources", "resources"}

func parseOffers(result []byte) *offers {
	o := &offers{key: sha256.Sum256(result), capabilities: []byte("{}")}
	if c, ok := mcp.Lookup(result, "capabilities"); ok && c[0] == '{' && len(c) <= maxOffers {
		o.capabilities = slices.Clone(c)
	}
	for k := range catalogue.Kinds {
		_, o.lists[k] = mcp.Lookup(o.capabilities, capabilityOf[k])
		o.changes[k] = o.says(capabilityOf[k], "listChanged")
	}
	o.subscribe = o.says("resources", "subscribe")
	_, o.logging = mcp.Lookup(o.capabilities, "logging")
	_, o.completions = mcp.Lookup(o.capabilities, "completions")
	_, o.tasks = mcp.Lookup(o.capabilities, "tasks")
	raw, _ := mcp.Lookup(result, "instructions")
	text, _ := mcp.Unquote(raw)
	o.instructions = clip(text, maxInstructions)
	return o
}

// says reports whether a capability is true.
func (o *offers) says(path ...string) bool {
	v, _ := mcp.Lookup(o.capabilities, path...)
	return string(v) == "true"
}

// has reports whether there is a capability of a name, an experimental one included.
func (o *offers) has(name string) bool {
	for _, path := range [][]string{{name}, {"experimental", name}, {"extensions", name}} {
		if _, ok := mcp.Lookup(o.capabilities, path...); ok {
			return true
		}
	}
	return false
}

// kinds returns the lists that the part has.
func (o *offers) kinds() (set kindSet) {
	for k, has := range o.lists {
		if has {
			set = set.with(catalogue.Kind(k))
		}
	}
	return set
}

// kindSet is a set of kinds of lists.
type kindSet uint8

func (s kindSet) with(k catalogue.Kind) kindSet { return s | 1<<k }
func (s kindSet) has(k catalogue.Kind) bool     { return s&(1<<k) != 0 }

// The kinds that are told of together.
const (
	toolKinds     = kindSet(1) << catalogue.Tools
	promptKinds   = kindSet(1) << catalogue.Prompts
	resourceKinds = kindSet(1)<<catalogue.Resources | kindSet(1)<<catalogue.Templates
	allKinds      = toolKinds | promptKinds | resourceKinds
)
