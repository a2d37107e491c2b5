package canary

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestAValueIsFoundHoweverItIsSpelledAndWhereverItBegins(t *testing.T) {
	encoders := map[string]func(string) string{
		"as it is":      func(s string) string { return s },
		"base64":        func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
		"base64url":     func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) },
		"hex":           func(s string) string { return hex.EncodeToString([]byte(s)) },
		"HEX":           func(s string) string { return strings.ToUpper(hex.EncodeToString([]byte(s))) },
		"bytes by %v":   func(s string) string { return fmt.Sprint([]byte(s)) },
		"query":         url.QueryEscape,
		"path":          url.PathEscape,
		"Go":            strconv.Quote,
		"a JSON string": func(s string) string { text, _ := json.Marshal(s); return string(text) },
	}
	for _, value := range []string{New(), "p\"w & <ü>\n/+?\x00more", strings.Repeat("\xff\x00\xfe", 9)} {
		var s Set
		s.Add("this", value)
		s.Add("another", New())
		for name, encode := range encoders {
			if name == "a JSON string" && strings.HasPrefix(value, "\xff") {
				continue // JSON has no such bytes
			}
			for _, before := range []string{"", "a", "ab", "abc"} {
				for _, after := range []string{"", "z", "zy"} {
					data := []byte(encode(before + value + after))
					if got := s.Find(data); !slices.Equal(got, []string{"this"}) {
						t.Errorf("%s of %q after %q, before %q: found %q", name, value, before, after, got)
					}
				}
			}
		}
	}
}

func TestNothingIsFoundWhereNothingIs(t *testing.T) {
	var s Set
	value := New()
	s.Add("this", value)
	for _, text := range []string{"", "short", value[:len(value)-1], value[1:], New(), strings.Repeat("canary", 100)} {
		if got := s.Find([]byte(text)); got != nil {
			t.Errorf("in %q: found %q", text, got)
		}
	}
}
