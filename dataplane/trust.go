package dataplane

import "google.golang.org/grpc/credentials"

// Trust is how the worker proves what it is, and how it knows others. Either all
// parts are set, or none: then everything is plaintext, which is for loopback.
type Trust struct {
	// Listener secures Config.PeerListener, and says who calls: its AuthInfo has to
	// be a forward.Caller. Callers then may do what their role may. Nil: everybody
	// may call everything.
	Listener credentials.TransportCredentials
	// Workers is for connections to other workers, and to the worker itself.
	Workers credentials.TransportCredentials
	// Control is for connections to the control plane.
	Control credentials.TransportCredentials
}

// whole reports whether all parts are set, or none.
func (t Trust) whole() bool {
	return (t.Listener == nil) == (t.Workers == nil) && (t.Workers == nil) == (t.Control == nil)
}
