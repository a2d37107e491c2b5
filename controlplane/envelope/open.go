package envelope

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/keyring"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Opened is a gateway as it is stored.
type Opened struct {
	// Gateway is the definition with the values of its secrets.
	Gateway *leaseholdv1.Gateway
	// Revision is the one at which the definition was accepted.
	Revision int64
	// Locked says why the values could not be opened. Secrets of Gateway say set in
	// their place then, and nothing of it is known to be as it was stored.
	Locked error
}

// Open returns what is stored under key, by a write at revision. An error means that
// it is no gateway at all.
func Open(roots keyring.RootKeys, key string, value []byte, revision int64) (Opened, error) {
	s, err := parse(value)
	if err != nil {
		return Opened{}, err
	}
	o := Opened{Gateway: &leaseholdv1.Gateway{}, Revision: accepted(s, revision)}
	definition := value
	if s != nil {
		definition = s.Definition
	}
	if err := proto.Unmarshal(definition, o.Gateway); err != nil || s == nil {
		return o, err
	}
	values, _, err := unseal(roots, key, s)
	if err == nil {
		err = put(o.Gateway, values)
	}
	if o.Locked = err; err != nil {
		o.Gateway = gateway.Shown(o.Gateway) // what looks like a value is nobody's secret
	}
	return o, nil
}

// Revision returns the revision at which the definition in a value was accepted that
// was written at revision.
func Revision(value []byte, revision int64) int64 {
	s, err := parse(value)
	if err != nil {
		return revision
	}
	return accepted(s, revision)
}

func accepted(s *leaseholdv1.StoredGateway, revision int64) int64 {
	if s.GetRevision() != 0 {
		return s.GetRevision()
	}
	return revision
}

// parse returns the envelope in value, and nil if it is a bare gateway.
func parse(value []byte) (*leaseholdv1.StoredGateway, error) {
	s := &leaseholdv1.StoredGateway{}
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(value, s); err != nil {
		return nil, err
	}
	if s.Definition == nil && s.Sealed == nil && s.DataKey == nil && s.Revision == 0 {
		return nil, nil
	}
	return s, nil
}

// unseal returns the values in s as they were encoded, and the data key that sealed
// them.
func unseal(roots keyring.RootKeys, key string, s *leaseholdv1.StoredGateway) (plain, secret []byte, err error) {
	secret, err = roots.Unwrap(dataKeyName(key, s), s.GetDataKey().GetWrapped())
	if errors.Is(err, keyring.ErrChanged) {
		return nil, nil, ErrChanged
	}
	if err != nil {
		return nil, nil, fmt.Errorf("its secrets are %w", err)
	}
	if len(secret) != dataKeyBytes {
		return nil, nil, ErrChanged
	}
	aead, err := newAEAD(secret)
	if err != nil {
		return nil, nil, err
	}
	if plain, err = aead.Open(nil, nil, s.GetSealed(), bound(key, s.GetDefinition())); err != nil {
		return nil, nil, ErrChanged
	}
	return plain, secret, nil
}

// put puts values into g, to where they were taken from: all of them or none.
func put(g *leaseholdv1.Gateway, plain []byte) (err error) {
	var values leaseholdv1.SecretValues
	if err := proto.Unmarshal(plain, &values); err != nil {
		return fmt.Errorf("decode secrets: %w", err)
	}
	gateway.EachSecret(g.ProtoReflect(), func(s *leaseholdv1.Secret) {
		if _, ok := values.Values[s.GetFingerprint()]; s.GetSet() && !ok {
			err = ErrChanged
		}
	})
	if err != nil {
		return err
	}
	gateway.EachSecret(g.ProtoReflect(), func(s *leaseholdv1.Secret) {
		if s.GetSet() {
			s.Set, s.Source = false, &leaseholdv1.Secret_Value{Value: values.Values[s.GetFingerprint()]}
		}
	})
	return nil
}
