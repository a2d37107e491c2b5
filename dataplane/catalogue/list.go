package catalogue

import (
	"crypto/sha256"
	"fmt"
	"slices"

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

// item is one item of a list.
type item struct {
	from, to  int // its extent in the list's raw
	name      string
	key       span // where the name is in the item, as a JSON string
	described bool
	template  *template // of resource templates
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
			if err := l.add(raw, seen); err != nil {
				l.drop(err)
			}
		}
	}
	l.raw, l.items = slices.Clone(l.raw), slices.Clone(l.items) // in no more space than they need
	sum := sha256.Sum256(l.raw)
	l.hash = Hash(sum[:16])
	return l, nil
}

var errFull = fmt.Errorf("the list is full: at most %d items, %d of resource templates, and %d bytes are kept", MaxItems, MaxTemplates, MaxListBytes)

// add adds an item, or tells why it cannot.
func (l *List) add(raw []byte, seen map[string]bool) error {
	if len(l.items) == l.most() || len(l.raw)+len(raw) > MaxListBytes {
		return errFull
	}
	it := item{from: len(l.raw), to: len(l.raw) + len(raw)}
	ok := mcp.Find(raw, l.kind.paths(), func(path, from, to int) {
		if path == pathDescription {
			it.described = true
			return
		}
		it.key = span{from, to}
	})
	if !ok {
		return fmt.Errorf("%s or description is there twice, or once mis-cased", l.kind.Key())
	}
	it.name, ok = mcp.Unquote(raw[it.key.from:it.key.to])
	switch {
	case !ok || it.name == "" || len(it.name) > MaxNameBytes:
		return fmt.Errorf("%s is not a string of 1 to %d bytes", l.kind.Key(), MaxNameBytes)
	case seen[it.name]:
		return fmt.Errorf("%s is that of another item", l.kind.Key())
	}
	seen[it.name] = true
	if l.kind == Templates {
		it.template = newTemplate(it.name)
	}
	l.raw, l.items = append(l.raw, raw...), append(l.items, it)
	return nil
}

func (l *List) most() int {
	if l.kind == Templates {
		return MaxTemplates
	}
	return MaxItems
}

func (l *List) drop(err error) {
	if l.dropped++; l.reason == nil {
		l.reason = err
	}
}

// at returns the item at a place, and its bytes.
func (l *List) at(i int) (*item, []byte) {
	it := &l.items[i]
	return it, l.raw[it.from:it.to]
}

// Len returns how many items there are.
func (l *List) Len() int { return len(l.items) }

// Hash identifies the list among those of its kind: the same items have the same hash.
func (l *List) Hash() Hash { return l.hash }

// Dropped returns how many items were left out and why the first one was.
func (l *List) Dropped() (int, error) { return l.dropped, l.reason }
