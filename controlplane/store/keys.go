package store

import (
	"errors"
	"time"
)

// ErrOtherRootKey says that a replica wraps with another root key than was expected.
var ErrOtherRootKey = errors.New("the replica wraps with another root key: its file has another one first")

// KeyUse says which root keys there are, and for what.
type KeyUse struct {
	// Roots are those that the replica has, in their order, then the others under
	// which something is wrapped, ordered by id.
	Roots []RootKeyUse
	// Unsealed is how many gateways have secrets that are stored in clear.
	Unsealed int
	// Oldest and Newest are when data keys were made; zero without one.
	Oldest, Newest time.Time
}

// RootKeyUse is for what a root key is used.
type RootKeyUse struct {
	// ID names it.
	ID string
	// Known says that the replica has it.
	Known bool
	// DataKeys is how many are wrapped under it.
	DataKeys int
	// Ring says that the key ring is.
	Ring bool
}

// Rotation is what became of a part of the gateways when keys were rotated.
type Rotation struct {
	// Gateways is how many gateways with secrets were looked at, and Rotated of how many
	// something was sealed anew.
	Gateways, Rotated int
	// Locked are the ids of those that cannot be opened.
	Locked []string
	// Ring says that the key ring was wrapped anew.
	Ring bool
	// Last is the id of the last gateway that was looked at; More says that there may
	// be others after it.
	Last string
	More bool
}
