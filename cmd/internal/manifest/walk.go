package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/leasehold/leasehold/cmd/internal/usage"
)

// expand makes of a decoded document what protojson takes for a message of type
// md: enum values get their prefix. It reports every field that md does not have
// and every value that an enum does not have.
func expand(md protoreflect.MessageDescriptor, value any, path string) (any, error) {
	object, ok := value.(map[string]any)
	if !ok || wellKnown(md) {
		return value, nil // protojson says what is wrong with it, if anything is
	}
	out := make(map[string]any, len(object))
	var errs []error
	for key, member := range object {
		field := fieldByName(md, key)
		if field == nil {
			errs = append(errs, fmt.Errorf("%sno such field%s", at(join(path, key)), usage.DidYouMean(key, fieldNames(md))))
			continue
		}
		var err error
		out[key], err = expandField(field, member, join(path, key))
		errs = append(errs, err)
	}
	return out, joinSorted(errs)
}

func expandField(field protoreflect.FieldDescriptor, value any, path string) (any, error) {
	switch {
	case field.IsMap():
		object, ok := value.(map[string]any)
		if !ok {
			return value, wrongKind(value, "an object", path)
		}
		out := make(map[string]any, len(object))
		var errs []error
		for key, member := range object {
			var err error
			out[key], err = expandSingular(field.MapValue(), member, join(path, key))
			errs = append(errs, err)
		}
		return out, joinSorted(errs)
	case field.IsList():
		list, ok := value.([]any)
		if !ok {
			return value, wrongKind(value, "a list", path)
		}
		out := make([]any, len(list))
		var errs []error
		for i, member := range list {
			var err error
			out[i], err = expandSingular(field, member, fmt.Sprintf("%s[%d]", path, i))
			errs = append(errs, err)
		}
		return out, errors.Join(errs...)
	}
	return expandSingular(field, value, path)
}

func expandSingular(field protoreflect.FieldDescriptor, value any, path string) (any, error) {
	if value == nil {
		return nil, nil // as good as absent
	}
	switch field.Kind() {
	case protoreflect.MessageKind:
		if wellKnown(field.Message()) {
			return value, checkWellKnown(field.Message(), value, path)
		}
		if _, ok := value.(map[string]any); !ok {
			return nil, wrongKind(value, "an object", path)
		}
		return expand(field.Message(), value, path)
	case protoreflect.EnumKind:
		if word, ok := value.(string); ok {
			return longEnum(field.Enum(), word, path)
		}
		return nil, wrongKind(value, "one of "+strings.Join(enumWords(field.Enum()), ", "), path)
	case protoreflect.StringKind:
		if _, ok := value.(string); !ok {
			return nil, wrongKind(value, "a text (write it in quotes)", path)
		}
	}
	return value, nil
}

// checkWellKnown says where a value is wrong that has a form of its own, such
// as a duration: protojson only says that it is.
func checkWellKnown(md protoreflect.MessageDescriptor, value any, path string) error {
	data, err := json.Marshal(value)
	if err == nil {
		err = protojson.Unmarshal(data, dynamicpb.NewMessage(md))
	}
	if err == nil {
		return nil
	}
	want := "a " + strings.ToLower(string(md.Name()))
	if md.FullName() == "google.protobuf.Duration" {
		want = `a number of seconds such as "1800s"`
	}
	return fmt.Errorf("%sgot %s; want %s", at(path), data, want)
}

// longEnum returns the full name of an enum value that may lack its prefix.
func longEnum(enum protoreflect.EnumDescriptor, word, path string) (string, error) {
	prefix := enumPrefix(enum)
	for _, name := range []string{word, prefix + word} {
		if enum.Values().ByName(protoreflect.Name(name)) != nil {
			return name, nil
		}
	}
	words := enumWords(enum)
	return "", fmt.Errorf("%s%q must be one of %s%s", at(path), word, strings.Join(words, ", "), usage.DidYouMean(word, words))
}

// enumWords returns the names of all values of an enum, without their prefix.
func enumWords(enum protoreflect.EnumDescriptor) []string {
	var words []string
	for i := range enum.Values().Len() {
		words = append(words, shortEnum(enum, string(enum.Values().Get(i).Name())))
	}
	return words
}

// wrongKind says that a value is of another kind than wanted, or nil for a value
// that is as good as absent.
func wrongKind(value any, want, path string) error {
	if value == nil {
		return nil
	}
	return fmt.Errorf("%sgot %s; want %s", at(path), kind(value), want)
}

// shortEnum returns the name of an enum value without its prefix.
func shortEnum(enum protoreflect.EnumDescriptor, name string) string {
	if short, ok := strings.CutPrefix(name, enumPrefix(enum)); ok && short != "" {
		return short
	}
	return name
}

// enumPrefix returns what all values of an enum begin with, by convention: the
// enum's own name in capitals, with underscores.
func enumPrefix(enum protoreflect.EnumDescriptor) string {
	zero := string(enum.Values().ByNumber(0).Name())
	return strings.TrimSuffix(zero, "UNSPECIFIED")
}

// wellKnown reports whether a message has a JSON form of its own, such as a
// duration, which is a string.
func wellKnown(md protoreflect.MessageDescriptor) bool {
	return md.ParentFile().Package() == "google.protobuf"
}

func fieldByName(md protoreflect.MessageDescriptor, key string) protoreflect.FieldDescriptor {
	if field := md.Fields().ByName(protoreflect.Name(key)); field != nil {
		return field
	}
	return md.Fields().ByJSONName(key)
}

func fieldNames(md protoreflect.MessageDescriptor) []string {
	var names []string
	for i := range md.Fields().Len() {
		names = append(names, string(md.Fields().Get(i).Name()))
	}
	return names
}

func at(path string) string {
	if path == "" {
		return ""
	}
	return path + ": "
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// joinSorted joins errors that came out of a map, which has no order.
func joinSorted(errs []error) error {
	errs = slices.DeleteFunc(errs, func(err error) bool { return err == nil })
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}
