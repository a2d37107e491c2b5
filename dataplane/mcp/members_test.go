package mcp

import (
	"slices"
	"testing"
)

func TestMembersAreWhatAnObjectHasInItsOrder(t *testing.T) {
	for raw, want := range map[string][]string{
		`{}`: nil,
		` { "a" : 1 , "b\u0063":{"x":[1, 2]}, "a":null } `: {"a=1", `bc={"x":[1, 2]}`, "a=null"},
		`[1]`:                nil,
		`{"\ud800":1,"b":2}`: {"b=2"},
	} {
		var got []string
		for name, value := range Members([]byte(raw)) {
			got = append(got, name+"="+string(value))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", raw, got, want)
		}
	}
	for range Members([]byte(`{"a":1,"b":2}`)) {
		break
	}
}
