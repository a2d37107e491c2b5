package catalogue

import (
	"crypto/sha256"
	"fmt"

	"github.com/leasehold/leasehold/dataplane/mcp"
)

// Bounds of a list. What is beyond them is left out and counted by [List.Dropped].
const (
	MaxItems     = 10_000
	MaxTemplates = 512 // of resource templates
	MaxListBytes = 4 << 20
	MaxNameBytes = 8192 // of what identifies an item
)

// Hash identifies content.
type Hash [16]byte

// List is what one upstream lists of one kind.
type List struct {
	kind    Kind
	raw     []byte // the items, one behind the other
	items   []item
	hash    Hash
	dropped int
	reason  error // why the first one was dropped
}

// item is one item of a list: its own extent in the list's raw, and those of its
// name and its description in that, as JSON strings.
type item struct {
	from, to    int
	name        string
	key         span
	description span // empty if it has none
	template    *template
}

type span struct{ from, to int }

// Lists are the lists of one upstream by kind; nil for one that is not known. A kind
// of which it is known that there is nothing is an empty list.
type Lists [Kinds]*List

// Parse reads a list: the results, in order, of the requests that list all its pages;
// without any it is empty. It keeps none of them. An item that cannot be offered
// (it is no object, its name is missing, ambiguous, too long or there already, or the
// list is full) is left out. An error says that a result is not a list.
func Parse(k Kind, results ...[]byte) (*List, error) {
	l := &List{kind: k}
	seen := make(map[string]bool)
	for i, result := range results {
		array, ok := mcp.Lookup(result, k.Member())
		if !ok || array[0] != '[' {
			return nil, fmt.Errorf("list of %s: page %d has no array %q", k, i, k.Member())
		}
		for raw := range mcp.Elements(array) {
			l.add(raw, seen)
		}
	}
	sum := sha256.Sum256(l.raw)
	l.hash = Hash(sum[:16])
	return l, nil
}

func (l *List) add(raw []byte, seen map[string]bool) { panic("soon") }

// Len returns how many items there are.
func (l *List) Len() int { return len(l.items) }

// Hash identifies the list: two with the same hash have the same items.
func (l *List) Hash() Hash { return l.hash }

// Dropped returns how many items were left out and why the first one was.
func (l *List) Dropped() (int, error) { return l.dropped, l.reason }
