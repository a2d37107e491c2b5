package gateway

import (
	"crypto/rand"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Retain settles the secrets of next, which is to be stored in the place of
// stored, or for the first time if that is nil. One that says set gets the stored
// value that its fingerprint names, if there is one; Validate refuses it
// otherwise. A value that is stored already keeps its fingerprint, and any other
// gets a new, random one, whatever the caller gave: so it changes exactly with
// the value, and says nothing of it.
func Retain(stored, next *leaseholdv1.Gateway) {
	values, fingerprints := map[string]string{}, map[string]string{}
	EachSecret(stored.ProtoReflect(), func(s *leaseholdv1.Secret) {
		if value := s.GetValue(); value != "" && s.GetFingerprint() != "" {
			values[s.GetFingerprint()], fingerprints[value] = value, s.GetFingerprint()
		}
	})
	EachSecret(next.ProtoReflect(), func(s *leaseholdv1.Secret) {
		if value, ok := values[s.GetFingerprint()]; ok && s.GetSet() && s.GetSource() == nil {
			s.Source = &leaseholdv1.Secret_Value{Value: value}
		}
		value, given := s.GetSource().(*leaseholdv1.Secret_Value)
		switch {
		case given:
			if fingerprints[value.Value] == "" {
				fingerprints[value.Value] = rand.Text()
			}
			s.Set, s.Fingerprint = false, fingerprints[value.Value]
		case s.GetSource() != nil:
			s.Set, s.Fingerprint = false, ""
		}
	})
}

// Shown returns m as it may be shown: without the values of its secrets, which say
// that they are set. m is not changed; without values it is what is returned.
func Shown[M proto.Message](m M) M {
	found := false
	EachSecret(m.ProtoReflect(), func(s *leaseholdv1.Secret) { found = found || IsInline(s) })
	if !found {
		return m
	}
	shown := proto.CloneOf(m)
	EachSecret(shown.ProtoReflect(), func(s *leaseholdv1.Secret) {
		if IsInline(s) {
			s.Source, s.Set = nil, true
		}
	})
	return shown
}

// IsInline reports whether s has its value in it.
func IsInline(s *leaseholdv1.Secret) bool {
	_, ok := s.GetSource().(*leaseholdv1.Secret_Value)
	return ok
}

// EachSecret calls f for every secret in m, wherever it is.
func EachSecret(m protoreflect.Message, f func(*leaseholdv1.Secret)) {
	if s, ok := m.Interface().(*leaseholdv1.Secret); ok {
		if s != nil {
			f(s)
		}
		return
	}
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		switch {
		case field.IsMap():
			if field.MapValue().Message() != nil {
				value.Map().Range(func(_ protoreflect.MapKey, entry protoreflect.Value) bool {
					EachSecret(entry.Message(), f)
					return true
				})
			}
		case field.Message() == nil:
		case field.IsList():
			for i := range value.List().Len() {
				EachSecret(value.List().Get(i).Message(), f)
			}
		default:
			EachSecret(value.Message(), f)
		}
		return true
	})
}
