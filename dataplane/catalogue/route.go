package catalogue

// Verdict is what a catalogue says of a name.
type Verdict uint8

// What is known of a name.
const (
	// Unknown says that no item has the name.
	Unknown Verdict = iota
	// Known says that the target is what is meant: an item that is listed, a URI that
	// fits a template that is, or a URI that says itself whose it is and that no
	// filter forbids.
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
	panic("soon")
}

// Guess is Route while no list is known: Pending if only the upstream's own lists can
// tell, Known for what a URI says.
func (p *Policy) Guess(k Kind, name string) (Target, Verdict) {
	panic("soon")
}

// ClientURI returns what a URI that an upstream uses, in a result or a notification,
// is for clients: itself, where Route finds exactly that upstream's by it, otherwise
// with the upstream's name in front. Route of it gives the upstream and the URI.
func (c *Catalogue) ClientURI(upstream int, uri string) string {
	panic("soon")
}
