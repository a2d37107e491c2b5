package etcd

import (
	"encoding/json"
	"maps"
	"reflect"
	"strings"
)

// foreign are the fields of a JSON value that this version does not know. Replicas of
// two versions change the same values while the system is upgraded: what the newer one
// put there, the older one leaves as it is.
type foreign map[string]json.RawMessage

// split decodes data into known, a pointer to a struct, and takes the other fields.
func (f *foreign) split(data []byte, known any) error {
	if err := json.Unmarshal(data, known); err != nil {
		return err
	}
	var rest foreign
	if err := json.Unmarshal(data, &rest); err != nil {
		return err
	}
	for _, field := range reflect.VisibleFields(reflect.TypeOf(known).Elem()) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		delete(rest, name)
	}
	if *f = nil; len(rest) > 0 {
		*f = rest
	}
	return nil
}

// join returns the JSON of known, a struct, with the other fields.
func (f foreign) join(known any) ([]byte, error) {
	text, err := json.Marshal(known)
	if err != nil || len(f) == 0 {
		return text, err
	}
	all := maps.Clone(f)
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, err
	}
	return json.Marshal(all)
}
