package catalogue

// Catalogue is what several upstreams list, as clients see it.
type Catalogue struct {
	policy    *Policy
	known     [][Kinds]bool // by upstream
	of        [Kinds]merged
	conflicts Conflicts
}

// merged is the catalogue of one kind.
type merged struct {
	raw    []byte            // the items, with commas between them
	ends   []int             // where each item ends
	routes map[string]Target // by the names that clients use
	hash   Hash
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
	panic("soon")
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
	panic("soon")
}
