package explain

import (
	"fmt"
	"io"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/leasehold/leasehold/cmd/internal/table"
)

// Write tells what is at a path: its type, what the proto says of it, and its
// fields, or its values if it is an enum. A path that leads nowhere is a mistake
// of usage that names the field that may have been meant.
func Write(w io.Writer, path string) error {
	at, err := find(path)
	if err != nil {
		return err
	}
	var out strings.Builder
	out.WriteString(at.title())
	if at.field != nil {
		paragraphs(&out, at.field)
	}
	if at.message != nil {
		if at.field != nil {
			fmt.Fprintf(&out, "\n%s\n", at.message.Name())
		}
		paragraphs(&out, at.message)
		fields(&out, at.message)
	}
	if at.field != nil && at.field.Enum() != nil {
		values(&out, at.field.Enum())
	}
	_, err = io.WriteString(w, out.String())
	return err
}

// WriteTree tells the names and types of all that is below a path.
func WriteTree(w io.Writer, path string) error {
	at, err := find(path)
	if err != nil {
		return err
	}
	var out strings.Builder
	out.WriteString(at.title())
	if at.message != nil {
		out.WriteString("\n")
		tree(&out, at.message, "  ")
	}
	_, err = io.WriteString(w, out.String())
	return err
}

// title is the path and its type.
func (p *place) title() string {
	if p.field == nil {
		return fmt.Sprintf("%s <%s>\n", p.path, p.message.Name())
	}
	return fmt.Sprintf("%s <%s>\n", p.path, typeOf(p.field))
}

func tree(out *strings.Builder, message protoreflect.MessageDescriptor, indent string) {
	for i := range message.Fields().Len() {
		field := message.Fields().Get(i)
		fmt.Fprintf(out, "%s%s <%s>\n", indent, field.Name(), typeOf(field))
		if inner := below(field); inner != nil {
			tree(out, inner, indent+"  ")
		}
	}
}

func fields(out *strings.Builder, message protoreflect.MessageDescriptor) {
	rows := make([][]string, message.Fields().Len())
	for i := range rows {
		field := message.Fields().Get(i)
		rows[i] = []string{string(field.Name()), typeOf(field), firstSentence(field)}
	}
	out.WriteString("\n")
	// It cannot fail: a builder takes everything.
	_ = table.New(out, "  ", []table.Column{{Title: "FIELD"}, {Title: "TYPE"}, {Title: "DESCRIPTION", Least: 20}}).Append(rows)
}

// values lists an enum's values as files may have them.
func values(out *strings.Builder, enum protoreflect.EnumDescriptor) {
	all := enum.Values()
	unset := string(all.Get(0).Name())
	prefix := strings.TrimSuffix(unset, "UNSPECIFIED")
	var rows [][]string
	for i := range all.Len() {
		rows = append(rows, []string{strings.TrimPrefix(string(all.Get(i).Name()), prefix), firstSentence(all.Get(i))})
	}
	out.WriteString("\n")
	_ = table.New(out, "  ", []table.Column{{Title: "VALUE"}, {Title: "DESCRIPTION", Least: 20}}).Append(rows)
}

// typeOf says what a field holds.
func typeOf(field protoreflect.FieldDescriptor) string {
	switch {
	case field.IsMap():
		return "map of " + singular(field.MapKey()) + " to " + singular(field.MapValue())
	case field.IsList():
		return "list of " + singular(field)
	}
	return singular(field)
}

func singular(field protoreflect.FieldDescriptor) string {
	switch {
	case field.Message() != nil:
		return string(field.Message().Name())
	case field.Enum() != nil:
		return string(field.Enum().Name())
	}
	return field.Kind().String()
}

// paragraphs writes what the proto says of a descriptor, wrapped and indented.
func paragraphs(out *strings.Builder, d protoreflect.Descriptor) {
	for _, paragraph := range comment(d) {
		out.WriteString("\n" + table.Wrap("  ", paragraph))
	}
}
