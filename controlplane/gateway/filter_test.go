package gateway

import (
	"strings"
	"testing"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestFilter(t *testing.T) {
	g := &leaseholdv1.Gateway{Labels: map[string]string{"env": "prod", "app.example/name": "a b", "empty": ""}}
	for text, want := range map[string]bool{
		"":                                    true,
		"labels.env = prod":                   true,
		"labels.env = test":                   false,
		"labels.env:*":                        true,
		"labels.empty:*":                      true,
		`labels.empty = ""`:                   true,
		`labels.none = ""`:                    false,
		"labels.none:*":                       false,
		`labels.app.example/name = "a b"`:     true,
		`labels."app.example/name" = 'a b'`:   true,
		"labels.env = prod AND labels.none:*": false,
		"labels.env = prod AND labels.env:*":  true,
	} {
		f, violations := ParseFilter(text)
		if got := f.Matches(g); violations != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", text, got, violations, want)
		}
	}
	for _, text := range []string{"name = g", "labels = prod", "labels:*", "labels.env = prod AND description:*", "labels.env ="} {
		_, violations := ParseFilter(text)
		if len(violations) != 1 || violations[0].Field != "filter" || !strings.Contains(violations[0].Description, "at byte") {
			t.Errorf("%q: %v, want one violation of filter that says where", text, violations)
		}
	}
}
