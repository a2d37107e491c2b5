package config

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// A path leads from an upstream to one of its fields, through the messages that hold it.
type path []protoreflect.FieldDescriptor

func (p path) String() string {
	names := make([]string, len(p))
	for i, field := range p {
		names[i] = string(field.Name())
	}
	return strings.Join(names, ".")
}

// impact is what is said of the field, or of the innermost message that holds it.
func (p path) impact() (impact leaseholdv1.Impact) {
	for _, field := range p {
		if proto.HasExtension(field.Options(), leaseholdv1.E_Impact) {
			impact = proto.GetExtension(field.Options(), leaseholdv1.E_Impact).(leaseholdv1.Impact)
		}
	}
	return impact
}

// paths returns the paths to all fields of a message that hold no message of ours.
func paths(message protoreflect.MessageDescriptor, before path) (all []path) {
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		here := append(before[:len(before):len(before)], field)
		if inner := field.Message(); inner != nil && !field.IsMap() && inner.ParentFile().Package() == message.ParentFile().Package() {
			all = append(all, paths(inner, here)...)
			continue
		}
		all = append(all, here)
	}
	return all
}

// fill sets every field of a message, and those of the messages that it holds; of
// alternatives the one that a path leads through, or the first. variant tells the
// value at the end of the path from another.
func fill(m protoreflect.Message, to path, variant int) {
	for i := range m.Descriptor().Fields().Len() {
		field := m.Descriptor().Fields().Get(i)
		onPath := len(to) > 0 && to[0] == field
		if oneof := field.ContainingOneof(); oneof != nil && !onPath {
			if field != oneof.Fields().Get(0) || len(to) > 0 && to[0].ContainingOneof() == oneof {
				continue
			}
		}
		var rest path
		n := 0
		if onPath {
			rest = to[1:]
			if len(rest) == 0 {
				n = variant
			}
		}
		set(m, field, rest, n, variant)
	}
}

func set(m protoreflect.Message, field protoreflect.FieldDescriptor, rest path, n, variant int) {
	text := protoreflect.ValueOfString("http://" + string(field.Name()) + strings.Repeat("x", n))
	switch {
	case field.IsMap():
		m.Mutable(field).Map().Set(protoreflect.ValueOfString("K").MapKey(), text)
	case field.IsList() && field.Message() != nil:
		fill(m.Mutable(field).List().AppendMutable().Message(), rest, variant)
	case field.IsList():
		m.Mutable(field).List().Append(text)
	case field.Message() != nil && field.Message().FullName() == "google.protobuf.Duration":
		m.Set(field, protoreflect.ValueOfMessage((&durationpb.Duration{Seconds: int64(n) + 1}).ProtoReflect()))
	case field.Message() != nil:
		fill(m.Mutable(field).Message(), rest, variant)
	case field.Kind() == protoreflect.StringKind:
		m.Set(field, text)
	case field.Kind() == protoreflect.BoolKind:
		m.Set(field, protoreflect.ValueOfBool(n > 0))
	case field.Kind() == protoreflect.EnumKind:
		m.Set(field, protoreflect.ValueOfEnum(protoreflect.EnumNumber(n+1)))
	default:
		m.Set(field, protoreflect.ValueOfInt32(int32(n)+1))
	}
}

// program are the fields that count for programs only.
var program = map[string]bool{"command": true, "args": true, "env": true}

// TestTheFingerprintChangesExactlyWithWhatSaysThatItIsTheConnection changes each field of an
// upstream in turn, with all others set.
func TestTheFingerprintChangesExactlyWithWhatSaysThatItIsTheConnection(t *testing.T) {
	for _, p := range paths((&leaseholdv1.Upstream{}).ProtoReflect().Descriptor(), nil) {
		of := func(variant int) [16]byte {
			u := &leaseholdv1.Upstream{}
			fill(u.ProtoReflect(), p, variant)
			if program[p.String()] {
				u.Transport = leaseholdv1.Transport_TRANSPORT_STDIO
			}
			if last := p[len(p)-1]; last.FullName() == "leasehold.v1.Secret.value" && variant > 0 {
				// The control plane gives another value another fingerprint, which is all that
				// is said of it here.
				set(lastMessage(u.ProtoReflect(), p), last.ContainingMessage().Fields().ByName("fingerprint"), nil, variant, variant)
			}
			compiled, err := compileUpstream(u)
			if err != nil {
				t.Fatalf("%s: %v", p, err)
			}
			return compiled.Fingerprint
		}
		changes := of(0) != of(1)
		if want := p.impact() == leaseholdv1.Impact_IMPACT_CONNECTION; changes != want {
			t.Errorf("%s is %v: the fingerprint changes with it: %v, want %v", p, p.impact(), changes, want)
		}
	}
}

// lastMessage is the message that has the field at the end of a path.
func lastMessage(m protoreflect.Message, p path) protoreflect.Message {
	for _, field := range p[:len(p)-1] {
		if field.IsList() {
			m = m.Mutable(field).List().Get(0).Message()
			continue
		}
		m = m.Mutable(field).Message()
	}
	return m
}
