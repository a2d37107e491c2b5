package merge

import (
	"runtime"
	"sync"
	"weak"

	"github.com/leasehold/leasehold/dataplane/catalogue"
)

// sharing keeps one copy of what many sessions have alike, for as long as one of them
// has it. The zero value is empty. Safe for concurrent use.
type sharing struct {
	heard      interned[[32]byte, offers]
	lists      interned[listKey, catalogue.List]
	catalogues interned[catalogueKey, catalogue.Catalogue]
}

// listKey tells a list from others.
type listKey struct {
	kind catalogue.Kind
	hash catalogue.Hash
}

// catalogueKey tells a catalogue from others: the policy, and the hashes of the lists,
// which each is there or not.
type catalogueKey struct {
	policy *catalogue.Policy
	lists  string
}

func (s *sharing) offers(o *offers) *offers {
	return s.heard.of(o.key, func() *offers { return o })
}

func (s *sharing) list(k catalogue.Kind, l *catalogue.List) *catalogue.List {
	return s.lists.of(listKey{k, l.Hash()}, func() *catalogue.List { return l })
}

// catalogue returns the catalogue of lists, which are those of the policy's upstreams.
func (s *sharing) catalogue(policy *catalogue.Policy, lists []*catalogue.Lists) *catalogue.Catalogue {
	key := make([]byte, 0, 64)
	for _, of := range lists {
		for _, l := range of {
			if l == nil {
				key = append(key, 0)
				continue
			}
			hash := l.Hash()
			key = append(append(key, 1), hash[:]...)
		}
	}
	return s.catalogues.of(catalogueKey{policy, string(key)}, func() *catalogue.Catalogue { return catalogue.Merge(policy, lists) })
}

// interned keeps one value for each key while somebody has it.
type interned[K comparable, V any] struct {
	mu   sync.Mutex // guards what follows
	made map[K]weak.Pointer[V]
}

// of returns the value for a key, which make makes if there is none. Of two that make
// it at the same time both get the same.
func (in *interned[K, V]) of(key K, make func() *V) *V {
	if v := in.find(key); v != nil {
		return v
	}
	v := make()
	in.mu.Lock()
	defer in.mu.Unlock()
	if other := in.made[key].Value(); other != nil {
		return other
	}
	in.putLocked(key, v)
	return v
}

func (in *interned[K, V]) find(key K) *V {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.made[key].Value()
}

func (in *interned[K, V]) putLocked(key K, v *V) {
	if in.made == nil {
		in.made = make(map[K]weak.Pointer[V])
	}
	in.made[key] = weak.Make(v)
	runtime.AddCleanup(v, in.forget, key)
}

// forget forgets a value that nobody has any more, unless there is another for its key.
func (in *interned[K, V]) forget(key K) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.made[key].Value() == nil {
		delete(in.made, key)
	}
}

// len returns how many values are kept.
func (in *interned[K, V]) len() int {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.made)
}
