package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// MaxSize is how large a file may be.
const MaxSize = 16 << 20

// outputOnly are the fields of a gateway that only the server sets. They are
// ignored, so that what it returned can be given back to it.
var outputOnly = []string{"status", "create_time", "createTime", "update_time", "updateTime"}

// Gateways reads the gateways of a file: YAML, also of several documents, or
// JSON; each document is a gateway, a list of them, or an object that has them
// as gateways. What can be read is returned beside the errors of the rest.
func Gateways(data []byte) ([]*leaseholdv1.Gateway, error) {
	docs, err := documents(data)
	if err != nil {
		return nil, err
	}
	var gateways []*leaseholdv1.Gateway
	var errs []error
	for _, doc := range docs {
		where := ""
		if len(docs) > 1 {
			where = fmt.Sprintf("document %d: ", doc.number)
		}
		objects, err := objects(doc.value)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s%w", where, err))
		}
		for _, object := range objects {
			gateway, err := gateway(object.fields)
			if err != nil {
				errs = append(errs, prefixed(where+object.where, err))
				continue
			}
			gateways = append(gateways, gateway)
		}
	}
	if len(gateways) == 0 && len(errs) == 0 {
		return nil, errors.New("there is no gateway in it")
	}
	return gateways, errors.Join(errs...)
}

// object is one gateway as written, and where it is in its document.
type object struct {
	where  string
	fields map[string]any
}

func objects(value any) ([]object, error) {
	if fields, ok := value.(map[string]any); ok {
		list, ok := fields["gateways"]
		if !ok {
			return []object{{fields: fields}}, nil
		}
		for key := range fields {
			if key != "gateways" && key != "next_page_token" && key != "nextPageToken" {
				return nil, fmt.Errorf("%s: no such field beside gateways", key)
			}
		}
		value = list
	}
	list, ok := value.([]any)
	if !ok {
		return nil, fmt.Errorf("got %s; want a gateway, a list of gateways, or an object with gateways", kind(value))
	}
	var out []object
	var errs []error
	for i, member := range list {
		fields, ok := member.(map[string]any)
		if !ok {
			errs = append(errs, fmt.Errorf("gateways[%d]: got %s; want a gateway", i, kind(member)))
			continue
		}
		out = append(out, object{where: fmt.Sprintf("gateways[%d]: ", i), fields: fields})
	}
	return out, errors.Join(errs...)
}

func gateway(fields map[string]any) (*leaseholdv1.Gateway, error) {
	for _, name := range outputOnly {
		delete(fields, name)
	}
	message := &leaseholdv1.Gateway{}
	expanded, err := expand(message.ProtoReflect().Descriptor(), fields, "")
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(expanded)
	if err != nil {
		return nil, err
	}
	if err := protojson.Unmarshal(data, message); err != nil {
		return nil, errors.New(plain(err))
	}
	if message.GetName() == "" {
		return nil, errors.New("name: is missing")
	}
	message.Name = "gateways/" + strings.TrimPrefix(message.GetName(), "gateways/")
	return message, nil
}

// plain leaves out what protojson says of places in a text that nobody wrote,
// and its spaces, which are different in each build on purpose.
func plain(err error) string {
	text := strings.ReplaceAll(err.Error(), "\u00a0", " ")
	text = strings.TrimPrefix(text, "proto: ")
	if rest, ok := strings.CutPrefix(text, "syntax error "); ok {
		text = rest
	}
	if strings.HasPrefix(text, "(line ") {
		if _, rest, ok := strings.Cut(text, "): "); ok {
			return rest
		}
	}
	return text
}

// prefixed puts where before each line of err.
func prefixed(where string, err error) error {
	if where == "" {
		return err
	}
	return errors.New(where + strings.ReplaceAll(err.Error(), "\n", "\n"+where))
}

func kind(value any) string {
	switch value.(type) {
	case nil:
		return "nothing"
	case string:
		return "a text"
	case bool:
		return "a boolean"
	case json.Number:
		return "a number"
	case []any:
		return "a list"
	}
	return "an object"
}
