package envelope

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/keyring"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Facts are what can be said of a stored gateway's secrets without opening them.
type Facts struct {
	// Unsealed says that it has values that are stored in clear.
	Unsealed bool
	// Sealed says that it has a data key.
	Sealed bool
	// RootKey is the id of the root key that the data key is wrapped under; empty if
	// it says none.
	RootKey string
	// DataKeyTime is when the data key was made.
	DataKeyTime time.Time
}

// Look returns the facts of what is stored.
func Look(value []byte) (Facts, error) {
	s, err := parse(value)
	if err != nil {
		return Facts{}, err
	}
	if s == nil {
		g, err := bare(value)
		return Facts{Unsealed: g != nil}, err
	}
	id, _ := keyring.WrappedBy(s.GetDataKey().GetWrapped())
	return Facts{Sealed: true, RootKey: id, DataKeyTime: s.GetDataKey().GetCreateTime().AsTime()}, nil
}

// bare returns the gateway in a value that is no envelope, and nil if it has no
// secret's value.
func bare(value []byte) (*leaseholdv1.Gateway, error) {
	g, inline := &leaseholdv1.Gateway{}, false
	if err := proto.Unmarshal(value, g); err != nil {
		return nil, err
	}
	gateway.EachSecret(g.ProtoReflect(), func(s *leaseholdv1.Secret) { inline = inline || gateway.IsInline(s) })
	if !inline {
		return nil, nil
	}
	return g, nil
}

// Rewrap returns what is to be stored in the place of a value that was written under
// key at revision: with its data key wrapped under the first root key, or its secrets
// sealed. It returns nothing if that is so already, and an error if it cannot be opened.
func Rewrap(roots keyring.RootKeys, key string, value []byte, revision int64, now time.Time) ([]byte, error) {
	s, err := parse(value)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return sealBare(roots, key, value, revision, now)
	}
	_, secret, err := unseal(roots, key, s)
	if id, _ := keyring.WrappedBy(s.DataKey.GetWrapped()); err != nil || id == roots.First() {
		return nil, err
	}
	s.Revision = accepted(s, revision)
	return wrap(roots, key, s, secret)
}

// Reseal is Rewrap, but with a new data key for what was sealed before made.
func Reseal(roots keyring.RootKeys, key string, value []byte, revision int64, made, now time.Time) ([]byte, error) {
	s, err := parse(value)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return sealBare(roots, key, value, revision, now)
	}
	plain, _, err := unseal(roots, key, s)
	if err != nil || !s.DataKey.GetCreateTime().AsTime().Before(made) {
		return nil, err
	}
	return sealBytes(roots, key, s.Definition, plain, accepted(s, revision), now)
}

func sealBare(roots keyring.RootKeys, key string, value []byte, revision int64, now time.Time) ([]byte, error) {
	g, err := bare(value)
	if g == nil || err != nil {
		return nil, err
	}
	return seal(roots, key, g, revision, now)
}
