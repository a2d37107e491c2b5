package session_test

import (
	"strings"
	"testing"

	"github.com/leasehold/leasehold/controlplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestFilter(t *testing.T) {
	key := session.Key{Gateway: "g", Digest: "00000000000000000000000000000001"}
	rec := owned(mine, 1, 1)
	rec.Class = leaseholdv1.Class_CLASS_REBUILDABLE
	for text, want := range map[string]bool{
		"":                                true,
		"gateway = g":                     true,
		"gateway = gateways/g":            true,
		"gateway = other":                 false,
		"owner = " + mine:                 true,
		`owner = "workers/` + mine + `"`:  true,
		"owner = " + theirs:               false,
		"class = REBUILDABLE":             true,
		"class = class_rebuildable":       true,
		"class = CLASS_PINNED":            false,
		"gateway = g AND gateway = other": false,
		"owner = " + theirs + " AND owner = " + mine: false,
		"class = pinned AND class = rebuildable":     false,
		"gateway = g AND class = rebuildable":        true,
	} {
		f, violations := session.ParseFilter(text)
		if got := f.Matches(key, rec); violations != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", text, got, violations, want)
		}
	}
	f, _ := session.ParseFilter("gateway = g")
	if f.In("other").Matches(key, rec) || !f.In("g").Matches(key, rec) || !f.In("").Matches(key, rec) {
		t.Error("a parent does not restrict a filter as it should")
	}
}

func TestFilterSaysWhatIsWrongAndWhere(t *testing.T) {
	for text, want := range map[string]string{
		"gateway = Bad":                         "at byte 0: gateway must equal",
		"owner = workers/x":                     "at byte 0: owner must equal",
		"owner = " + mine + " AND class = fast": "at byte 29: class must equal",
		"epoch = 1":                             "at byte 0: must be one of the fields",
		"owner:*":                               "at byte 0: must be gateway = NAME",
		"class ! x":                             "at byte 6: must be = or :*",
		strings.Repeat("x", 2000):               "at most 1024 bytes; has 2000",
	} {
		_, violations := session.ParseFilter(text)
		if len(violations) != 1 || violations[0].Field != "filter" || !strings.Contains(violations[0].Description, want) || !strings.Contains(violations[0].Description, "1024") {
			t.Errorf("%.40q: %v, want %q on filter, and the bound", text, violations, want)
		}
	}
}
