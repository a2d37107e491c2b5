package filter

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	tests := []struct {
		text string
		want []Condition
	}{
		{"", nil},
		{" \t ", nil},
		{"owner=w", []Condition{{Field: "owner", Value: "w"}}},
		{"labels.env = prod", []Condition{{Field: "labels", Key: "env", Value: "prod"}}},
		{"labels.env:*", []Condition{{Field: "labels", Key: "env", Present: true}}},
		{`labels.app.kubernetes.io/name = "a b"`, []Condition{{Field: "labels", Key: "app.kubernetes.io/name", Value: "a b"}}},
		{`labels."a \"key\"" = 'it\'s'`, []Condition{{Field: "labels", Key: `a "key"`, Value: "it's"}}},
		{`labels.a = ""`, []Condition{{Field: "labels", Key: "a"}}},
		{"a = AND AND b = x/y AND c:*", []Condition{
			{Field: "a", Value: "AND"}, {Position: 12, Field: "b", Value: "x/y"}, {Position: 24, Field: "c", Present: true},
		}},
	}
	for _, tt := range tests {
		if got, err := Parse(tt.text); err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%q: got %+v, %v; want %+v", tt.text, got, err, tt.want)
		}
	}
}

func TestParseSaysWhereAFilterIsWrong(t *testing.T) {
	tests := []struct {
		text string
		at   int
		says string
	}{
		{"=", 0, "name of a field"},
		{"labels.", 7, "a key"},
		{`labels."" = x`, 7, "a key"},
		{"labels.env", 10, "= or :*"},
		{"labels.env != x", 11, "= or :*"},
		{"labels.env:prod", 11, "presence"},
		{"labels.env = ", 13, "a value"},
		{"labels.env = *", 13, "in quotes"},
		{`a = "b`, 4, "not closed"},
		{`a = "b\`, 4, "not closed"},
		{"a = b OR c = d", 6, "AND"},
		{"a = b and c = d", 6, "AND"},
		{"a = b AND ", 10, "name of a field"},
		{"a = b (c = d)", 6, "AND"},
		{strings.Repeat("x", 1025), 1024, "at most 1024 bytes; has 1025"},
	}
	for _, tt := range tests {
		_, err := Parse(tt.text)
		var e *Error
		if !errors.As(err, &e) || e.Position != tt.at || !strings.Contains(e.Message, tt.says) {
			t.Errorf("%.40q: got %v, want %q at byte %d", tt.text, err, tt.says, tt.at)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "a=b", `labels."k" = 'v' AND b:*`, `a="\`, "AND", "a=b AND"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		conditions, err := Parse(text)
		var e *Error
		if err != nil && (!errors.As(err, &e) || e.Position < 0 || e.Position > len(text)) {
			t.Fatalf("error %v is not within the %d bytes", err, len(text))
		}
		for _, c := range conditions {
			if c.Field == "" || c.Position < 0 || !strings.HasPrefix(text[c.Position:], c.Field) || c.Present && c.Value != "" {
				t.Errorf("condition %+v", c)
			}
			again := c.Field + `."` + escape(c.Key) + `" = "` + escape(c.Value) + `"`
			if got, err := Parse(again); c.Key != "" && len(again) <= MaxBytes && (err != nil || got[0].Key != c.Key || got[0].Value != c.Value) {
				t.Errorf("%q parses as %+v, %v; want %+v", again, got, err, c)
			}
		}
	})
}

func escape(s string) string { return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) }
