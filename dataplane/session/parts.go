package session

import leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"

// Part is one upstream session of a session that has several, as it is recorded.
type Part struct {
	Upstream    string // its name
	ID          string // empty if the upstream gave none
	Version     string // of the protocol, negotiated with this upstream
	Address     string // of the replica that has it, host:port
	Cursor      string // the event id that its GET stream goes on after; empty for none
	Class       leaseholdv1.Class
	Fingerprint [16]byte // of the connection settings
}

// Client is what a client said of itself at initialize: with it its upstream sessions
// are opened.
type Client struct {
	// Version is the protocol version that it asked for.
	Version string
	// Capabilities and Info are JSON objects; nil for none.
	Capabilities, Info []byte
}
