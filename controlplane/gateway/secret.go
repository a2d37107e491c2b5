package gateway

import (
	"crypto/rand"
	"net/url"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// kept names a stored value: by its fingerprint, and by where it is sent.
type kept struct{ fingerprint, destination string }

// Retain settles the secrets of next, which is to be stored in the place of
// stored, or for the first time if that is nil. One that says set gets the stored
// value that its fingerprint names, if there is one that is sent to the same place;
// Validate refuses it otherwise. So who may write gateways but not read their secrets
// cannot have one sent to a server of their own. A value that is stored already keeps its
// fingerprint, and any other gets a new, random one, whatever the caller gave: so it
// changes exactly with the value, and says nothing of it.
func Retain(stored, next *leaseholdv1.Gateway) {
	values, fingerprints := map[kept]string{}, map[string]string{}
	eachSent(stored, func(s *leaseholdv1.Secret, to string) {
		if value := s.GetValue(); value != "" && s.GetFingerprint() != "" {
			values[kept{s.GetFingerprint(), to}], fingerprints[value] = value, s.GetFingerprint()
		}
	})
	eachSent(next, func(s *leaseholdv1.Secret, to string) {
		if value, ok := values[kept{s.GetFingerprint(), to}]; ok && s.GetSet() && s.GetSource() == nil {
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

// eachSent calls f for every secret of g, with the scheme and host of the server that it
// is sent to; those that are not sent, but prove something, have none.
func eachSent(g *leaseholdv1.Gateway, f func(s *leaseholdv1.Secret, to string)) {
	for _, u := range g.GetUpstreams() {
		oauth := u.GetCredential().GetOauth()
		EachSecret(u.ProtoReflect(), func(s *leaseholdv1.Secret) {
			switch s {
			case u.GetTls().GetPrivateKey(), oauth.GetTls().GetPrivateKey():
				f(s, "")
			case oauth.GetClientSecret():
				f(s, originOf(oauth.GetTokenUrl()))
			default:
				f(s, originOf(u.GetUrl()))
			}
		})
	}
}

// originOf returns scheme and host of a URL, or all of what is none.
func originOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return raw
	}
	return u.Scheme + "://" + strings.ToLower(u.Host)
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
