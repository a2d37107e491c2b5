package merge

import (
	"github.com/leasehold/leasehold/dataplane/catalogue"
	"github.com/leasehold/leasehold/dataplane/config"
)

// Dropped are items that an upstream lists and that cannot be offered.
type Dropped struct {
	Upstream string // its name
	Kind     catalogue.Kind
	Count    int
	Reason   error // of the first one
}

// Unlisted returns what the upstreams of a gateway listed last, as far as this worker
// knows from all sessions, and clients are not offered: for its name, or for what is wrong
// with it.
func (u *Upstream) Unlisted(m *config.Merged) (catalogue.Conflicts, []Dropped) {
	var dropped []Dropped
	lists := make([]*catalogue.Lists, len(m.Parts))
	for i, part := range m.Parts {
		lists[i] = &catalogue.Lists{} // as sessions have it, so that the catalogue may be theirs
		if k := u.known.look(part); k != nil {
			*lists[i] = k.lists
		}
		for k := range catalogue.Kinds {
			if l := lists[i][k]; l != nil {
				if n, why := l.Dropped(); n > 0 {
					dropped = append(dropped, Dropped{part.Name, k, n, why})
				}
			}
		}
	}
	return u.sharing.catalogue(m.Policy, lists).Conflicts(), dropped
}
