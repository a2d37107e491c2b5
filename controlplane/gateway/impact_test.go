package gateway

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// impactOf returns what a field says of itself, and whether it says anything.
func impactOf(field protoreflect.FieldDescriptor) (leaseholdv1.Impact, bool) {
	if !proto.HasExtension(field.Options(), leaseholdv1.E_Impact) {
		return 0, false
	}
	return proto.GetExtension(field.Options(), leaseholdv1.E_Impact).(leaseholdv1.Impact), true
}

// unsaid returns the fields of a message, and of those that it holds, whose impact
// nobody has said. inherited says that a field which holds the message has one, which counts for
// what is in it.
func unsaid(message protoreflect.MessageDescriptor, inherited bool, seen map[protoreflect.FullName]bool) (fields []string) {
	if seen[message.FullName()] || !strings.HasPrefix(string(message.FullName()), "leasehold.") {
		return nil
	}
	seen[message.FullName()] = true
	// These are what a change is looked at by, and each of their fields has to say.
	own := message.FullName() == "leasehold.v1.Gateway" || message.FullName() == "leasehold.v1.Upstream"
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		impact, said := impactOf(field)
		if said && impact == leaseholdv1.Impact_IMPACT_UNSPECIFIED || !said && (own || !inherited) {
			fields = append(fields, string(field.FullName()))
		}
		if field.Message() != nil && !field.IsMap() {
			fields = append(fields, unsaid(field.Message(), said || inherited && !own, seen)...)
		}
	}
	return fields
}

func TestEveryFieldOfADefinitionSaysWhatAChangeOfItDoesToSessions(t *testing.T) {
	fields := unsaid((&leaseholdv1.Gateway{}).ProtoReflect().Descriptor(), false, map[protoreflect.FullName]bool{})
	if len(fields) > 0 {
		t.Errorf("add the option (impact) to %s", strings.Join(fields, ", "))
	}
	// One that does not say it is found.
	if got := unsaid((&leaseholdv1.Credential{}).ProtoReflect().Descriptor(), false, map[protoreflect.FullName]bool{}); len(got) == 0 {
		t.Error("fields without the option are not found")
	}
}
