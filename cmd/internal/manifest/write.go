package manifest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"go.yaml.in/yaml/v2"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// WriteJSON writes a message as proto JSON, with the field names of the proto.
func WriteJSON(w io.Writer, message proto.Message) error {
	data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(message)
	if err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	// protojson's own spaces differ from build to build.
	var out bytes.Buffer
	if err := json.Indent(&out, data, "", "  "); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	out.WriteByte('\n')
	_, err = out.WriteTo(w)
	return err
}

// WriteJSONLine is WriteJSON without line breaks inside, for one of many.
func WriteJSONLine(w io.Writer, message proto.Message) error {
	data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(message)
	if err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	var out bytes.Buffer
	if err := json.Compact(&out, data); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	out.WriteByte('\n')
	_, err = out.WriteTo(w)
	return err
}

// WriteYAML writes messages as YAML documents, with enum values in their short
// form, in the order of the fields in the proto.
func WriteYAML[M proto.Message](w io.Writer, messages ...M) error {
	for i, message := range messages {
		data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(message)
		if err != nil {
			return fmt.Errorf("write YAML: %w", err)
		}
		decoder := json.NewDecoder(bytes.NewReader(data))
		decoder.UseNumber()
		var value any
		if err := decoder.Decode(&value); err != nil {
			return fmt.Errorf("write YAML: %w", err)
		}
		text, err := yaml.Marshal(shorten(message.ProtoReflect().Descriptor(), value))
		if err != nil {
			return fmt.Errorf("write YAML: %w", err)
		}
		if i > 0 {
			text = append([]byte("---\n"), text...)
		}
		if _, err := w.Write(text); err != nil {
			return err
		}
	}
	return nil
}

// shorten is the reverse of expand, and puts fields in their order.
func shorten(md protoreflect.MessageDescriptor, value any) any {
	object, ok := value.(map[string]any)
	if !ok || wellKnown(md) {
		return value
	}
	out := yaml.MapSlice{}
	for i := range md.Fields().Len() {
		field := md.Fields().Get(i)
		if member, ok := object[string(field.Name())]; ok {
			out = append(out, yaml.MapItem{Key: string(field.Name()), Value: shortenField(field, member)})
		}
	}
	return out
}

func shortenField(field protoreflect.FieldDescriptor, value any) any {
	switch v := value.(type) {
	case []any:
		out := make([]any, len(v))
		for i, member := range v {
			out[i] = shortenSingular(field, member)
		}
		return out
	case map[string]any:
		if field.IsMap() {
			out := make(map[string]any, len(v))
			for key, member := range v {
				out[key] = shortenSingular(field.MapValue(), member)
			}
			return out
		}
	}
	return shortenSingular(field, value)
}

func shortenSingular(field protoreflect.FieldDescriptor, value any) any {
	switch field.Kind() {
	case protoreflect.MessageKind:
		return shorten(field.Message(), value)
	case protoreflect.EnumKind:
		if name, ok := value.(string); ok {
			return shortEnum(field.Enum(), name)
		}
	case protoreflect.Int64Kind, protoreflect.Uint64Kind:
		if digits, ok := value.(string); ok { // proto JSON quotes 64-bit numbers
			return number(digits)
		}
	}
	if n, ok := value.(json.Number); ok {
		return number(n.String())
	}
	return value
}

// number keeps a number exact: YAML has no limit to its digits.
func number(digits string) any {
	var n any
	if err := yaml.Unmarshal([]byte(digits), &n); err != nil {
		return digits
	}
	return n
}
