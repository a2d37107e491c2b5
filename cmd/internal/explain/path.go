package explain

import (
	"regexp"
	"slices"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/leasehold/leasehold/cmd/internal/usage"
)

// place is what a path leads to.
type place struct {
	path    string                         // with the names of the proto
	field   protoreflect.FieldDescriptor   // nil at a resource
	message protoreflect.MessageDescriptor // what is below it; nil if nothing is
}

// index is how an element of a list is written in a path, as in errors.
var index = regexp.MustCompile(`\[[^\]]*\]`)

// find follows a path such as gateway.upstreams.url.
func find(path string) (*place, error) {
	words := strings.Split(index.ReplaceAllString(path, ""), ".")
	at, err := resource(words[0])
	if err != nil {
		return nil, err
	}
	for _, word := range words[1:] {
		if at.message == nil {
			return nil, usage.Errorf("%s has no fields: it is %s", at.path, typeOf(at.field))
		}
		field := fieldOf(at.message, word)
		if field == nil {
			return nil, usage.Errorf("%s has no field %q%s", at.path, word, usage.DidYouMean(word, fieldNames(at.message)))
		}
		at = &place{path: at.path + "." + string(field.Name()), field: field, message: below(field)}
	}
	return at, nil
}

func resource(word string) (*place, error) {
	var words []string
	for _, kind := range kinds {
		if slices.Contains(kind.words, strings.ToLower(word)) {
			files, err := api()
			if err != nil {
				return nil, err
			}
			found, err := files.FindDescriptorByName(kind.message)
			if err != nil {
				return nil, err
			}
			return &place{path: kind.words[0], message: found.(protoreflect.MessageDescriptor)}, nil
		}
		words = append(words, kind.words...)
	}
	return nil, usage.Errorf("there is no resource %q%s; there are %s", word, usage.DidYouMean(word, words), strings.Join(Kinds(), ", "))
}

// below returns the message in a field whose fields are worth a path.
func below(field protoreflect.FieldDescriptor) protoreflect.MessageDescriptor {
	if field.IsMap() {
		field = field.MapValue()
	}
	message := field.Message()
	if message == nil || message.ParentFile().Package() != "leasehold.v1" {
		return nil
	}
	return message
}

func fieldOf(message protoreflect.MessageDescriptor, word string) protoreflect.FieldDescriptor {
	if field := message.Fields().ByName(protoreflect.Name(word)); field != nil {
		return field
	}
	return message.Fields().ByJSONName(word)
}

func fieldNames(message protoreflect.MessageDescriptor) []string {
	var names []string
	for i := range message.Fields().Len() {
		names = append(names, string(message.Fields().Get(i).Name()))
	}
	return names
}

// Complete returns the paths that begin so, up to the next dot.
func Complete(begun string) []string {
	cut := strings.LastIndex(begun, ".")
	if cut < 0 {
		return fitting(Kinds(), "", begun)
	}
	at, err := find(begun[:cut])
	if err != nil || at.message == nil {
		return nil
	}
	return fitting(fieldNames(at.message), begun[:cut+1], begun)
}

func fitting(names []string, prefix, begun string) []string {
	var all []string
	for _, name := range names {
		if strings.HasPrefix(prefix+name, begun) {
			all = append(all, prefix+name)
		}
	}
	return all
}
