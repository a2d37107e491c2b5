package pairs

import (
	"context"
	"errors"
)

// target says how a client reaches a server.
type target struct {
	// Kind is http, sse or stdio.
	Kind string `json:"kind"`
	// URL is where it is, but for stdio.
	URL string `json:"url,omitempty"`
	// Command is the program, and Args are its arguments, for stdio.
	Command string   `json:"command,omitempty"`
	Args    []string `json:"args,omitempty"`
	// legacy keeps a client that can do without sessions from doing so. Leasehold
	// says itself that it has sessions, so that it is not needed there.
	legacy bool
	// Roots has the client say that it has roots, which some servers ask for.
	Roots bool `json:"roots,omitempty"`
}

// greeting is what a client learnt when it connected.
type greeting struct {
	Version string `json:"version"`
	Server  string `json:"server"`
	ID      string `json:"id"`
}

// session is a client of some library that is connected to a server. It answers
// what the server asks of it: sampling with "sampled by pairs", elicitation with
// the name Ada.
type session interface {
	// List returns the names of tools or prompts, or the URIs of resources.
	List(ctx context.Context, kind string) ([]string, error)
	// Call calls a tool and returns the text of its result. If progress is not nil
	// it asks for progress, and calls it for each that comes. The end of ctx
	// cancels the call, in the way that the library has.
	Call(ctx context.Context, name string, args map[string]any, progress func()) (string, error)
	// Subscribe subscribes to a resource.
	Subscribe(ctx context.Context, uri string) error
	// Updated has the URIs of resources that the server said were updated.
	Updated() <-chan string
	// Close ends the session.
	Close(ctx context.Context) error
}

// library is a library of clients.
type library struct {
	name    string
	connect func(ctx context.Context, to target) (session, greeting, error)
	without []string // the steps that there is no way to ask it for
}

// errLacking is what a client says to what it cannot do.
var errLacking = errors.New("the client cannot")

// updates is how many updates are kept that nobody has waited for.
const updates = 64

// heard passes on an update unless too many wait.
func heard(to chan<- string, uri string) {
	select {
	case to <- uri:
	default:
	}
}
