package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"sigs.k8s.io/yaml"
)

// document is one document of a file, decoded: maps, slices, strings, booleans,
// json.Number and nil.
type document struct {
	number int
	value  any
}

// documents reads all documents of a file, which is YAML or JSON.
func documents(data []byte) ([]document, error) {
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	if trimmed := bytes.TrimLeft(data, " \t\r\n"); len(trimmed) > 0 && (trimmed[0] == '{' || trimmed[0] == '[') {
		docs, err := jsonDocuments(data)
		var syntax *json.SyntaxError
		if err == nil || !errors.As(err, &syntax) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return docs, err
		}
		// Braces that are not JSON are YAML in its short form.
	}
	return yamlDocuments(data)
}

func jsonDocuments(data []byte) ([]document, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	var docs []document
	for {
		value, err := jsonValue(decoder)
		if errors.Is(err, io.EOF) {
			return docs, nil
		}
		if err != nil {
			return nil, err
		}
		docs = append(docs, document{number: len(docs) + 1, value: value})
	}
}

// jsonValue reads the next value. Unlike the decoder's own Decode it refuses an
// object that has a key twice, of which one would silently be lost.
func jsonValue(decoder *json.Decoder) (any, error) {
	token, err := decoder.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('{'):
		object := map[string]any{}
		for decoder.More() {
			key, err := decoder.Token()
			if err != nil {
				return nil, unexpected(err)
			}
			name, ok := key.(string)
			if !ok {
				return nil, fmt.Errorf("object key %v is not a string", key)
			}
			if _, twice := object[name]; twice {
				return nil, fmt.Errorf("key %q is there twice", name)
			}
			if object[name], err = jsonValue(decoder); err != nil {
				return nil, unexpected(err)
			}
		}
		_, err := decoder.Token()
		return object, unexpected(err)
	case json.Delim('['):
		list := []any{}
		for decoder.More() {
			value, err := jsonValue(decoder)
			if err != nil {
				return nil, unexpected(err)
			}
			list = append(list, value)
		}
		_, err := decoder.Token()
		return list, unexpected(err)
	}
	return token, nil
}

// unexpected says of the end of a file inside of a value that it is not the end
// that was expected.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func yamlDocuments(data []byte) ([]document, error) {
	var docs []document
	for i, text := range splitYAML(string(data)) {
		if strings.TrimSpace(text) == "" {
			continue
		}
		raw, err := yaml.YAMLToJSONStrict([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("document %d: %s", i+1, yamlReason(err))
		}
		decoder := json.NewDecoder(bytes.NewReader(raw))
		decoder.UseNumber()
		var value any
		if err := decoder.Decode(&value); err != nil {
			return nil, fmt.Errorf("document %d: %w", i+1, err)
		}
		if value != nil {
			docs = append(docs, document{number: i + 1, value: value})
		}
	}
	return docs, nil
}

// What the YAML parser says with a value of the file in it, which may be a secret: an
// unquoted text that begins with * is taken for the name of an anchor, and one with a tag
// for another kind of value.
var (
	unknownAnchor = regexp.MustCompile(`(?s)^unknown anchor '.*' referenced$`)
	wrongTag      = regexp.MustCompile("(?s)^cannot decode (!![a-z]+) `.*` as a (!![a-z]+)$")
)

// yamlReason returns what the YAML parser says, in one line for each mistake, without
// values.
func yamlReason(err error) string {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	text = unknownAnchor.ReplaceAllString(text, "a value begins with * and names no anchor; write a text that begins so in quotes")
	text = wrongTag.ReplaceAllString(text, "cannot decode a $1 as a $2")
	return strings.ReplaceAll(strings.TrimPrefix(text, "unmarshal errors:\n  "), "\n  ", "\n")
}

// splitYAML cuts a stream at its document markers. Each document is preceded by
// as many empty lines as there are lines before it, so that line numbers in
// errors are those of the file.
func splitYAML(stream string) []string {
	var texts []string
	var current strings.Builder
	lines := strings.SplitAfter(stream, "\n")
	for i, line := range lines {
		bare := strings.TrimRight(line, " \t\r\n")
		start := bare == "---" || strings.HasPrefix(bare, "--- ") || strings.HasPrefix(bare, "---\t")
		if !start && bare != "..." {
			current.WriteString(line)
			continue
		}
		texts = append(texts, current.String())
		current.Reset()
		current.WriteString(strings.Repeat("\n", i))
		if start {
			current.WriteString(strings.TrimPrefix(line, "---"))
		} else {
			current.WriteByte('\n')
		}
	}
	texts = append(texts, current.String())
	if strings.TrimSpace(texts[0]) == "" {
		return texts[1:] // the file begins with a marker
	}
	return texts
}
