package catalogue

import (
	"strings"
	"testing"

	"github.com/yosida95/uritemplate/v3"
)

func TestTemplates(t *testing.T) {
	for _, tt := range []struct {
		template, uri string
		fits, mayFit  bool
	}{
		{"x:{a}", "x:1", true, true},
		{"x:{a}", "x:", true, true},
		{"x:{a}", "x:1/2", false, true},
		{"x:{a}", "x:é", false, true},
		{"x:{a}", "x:%C3%A9", true, true},
		{"x:{a}", "y:1", false, false},
		{"x:{+a}", "x:1/2?3", true, true},
		{"x:{a}/{b}", "x:1/2", true, true},
		{"x:{a}/{b}", "x:1", false, false},
		{"x:{a,b}", "x:1,2", true, true},
		{"x:{+a,b}/c", "x:1,2/3/c", true, true},
		{"x{/a*}", "x/1/2", true, true},
		{"x{?a,b}", "x?a=1&b=2", true, true},
		{"x{?a,b}", "x", true, true},
		{"x{#a}", "x#1/2", true, true},
		{"x{.a}{;b}", "x.1;b=2", true, true},
		{"x:é/{a}", "x:é/1", true, true},
		{"x", "x", true, true},
		{"x", "y", false, false},
		{"x:{a", "x:1", false, true},
		{"x:{a", "x:", false, true},
		{"x:}{a}", "x:}1", false, true},
		{"{a}{a}", "1", true, true},
		{strings.Repeat("x", maxTemplateBytes) + "{a}", strings.Repeat("x", maxTemplateBytes) + "1", false, true},
		{"x:{a" + strings.Repeat(",b", maxVariables) + "}", "x:1", false, true},
	} {
		own := newTemplate(tt.template)
		if fits, mayFit := own.fits(tt.uri), own.mayFit(tt.uri); fits != tt.fits || mayFit != tt.mayFit {
			t.Errorf("%s of %s: fits %v, may fit %v, want %v and %v", tt.uri, tt.template, fits, mayFit, tt.fits, tt.mayFit)
		}
	}
}

func TestPlain(t *testing.T) {
	for uri, want := range map[string]string{
		"file:///a/b":                   "file:///a/b",
		"file:///a/../b":                "file:///b",
		"file:///../../a/./b//c/":       "file:///a/b/c/",
		"file:///a/%2e%2E/b":            "file:///b",
		`file:\\\a\..\b`:                "file:///b",
		"FILE://Host/A":                 "file://host/A",
		"http://h/a/..?q=/../x#/../y":   "http://h/?q=/../x#/../y",
		"http://h?q":                    "http://h?q",
		" file:///s\tecr\net ":          "file:///secret",
		"x:a%2Fb":                       "x:a/b",
		"x:%zz%4":                       "x:%zz%4",
		"x:%41%":                        "x:A%",
		"x:a/..":                        "x:./",
		"/a/../b:c":                     "/b:c",
		"":                              "",
		"x:":                            "x:",
		"file:///public/*":              "file:///public/*",
		"*":                             "*",
		"file:///public/x/..%2f../priv": "file:///priv",
	} {
		if got := plain(uri); got != want {
			t.Errorf("%q: got %q, want %q", uri, got, want)
		}
	}
}

// FuzzTemplate takes any text for a template: it must have bounds, and what fits by
// RFC 6570 must also fit in the looser way, as must every expansion.
func FuzzTemplate(f *testing.F) {
	f.Add("x:{a}/{+b,c*}{?d:9999}", "x:1/2", "v")
	f.Add("}{", "", "")
	f.Add("{a}b{c", "b", "b")
	f.Fuzz(func(t *testing.T, text, uri, value string) {
		own := newTemplate(text)
		if own.fits(uri) && !own.mayFit(uri) {
			t.Fatalf("%q fits %q in the strict way only", uri, text)
		}
		if !own.mayBegin(own.texts[0]) || !own.mayMeet(own) {
			t.Fatalf("%q does not meet itself", text)
		}
		plain(uri)
		if own.rfc == nil {
			return
		}
		values := uritemplate.Values{}
		for _, name := range own.rfc.Varnames() {
			values.Set(name, uritemplate.String(value))
		}
		expanded, err := own.rfc.Expand(values)
		if err != nil {
			return
		}
		if !own.mayFit(expanded) {
			t.Fatalf("%q, an expansion of %q, may not fit it", expanded, text)
		}
		other := newTemplate(uri)
		if other.mayFit(expanded) && !own.mayMeet(other) {
			t.Fatalf("%q may fit %q and %q, which do not meet", expanded, text, uri)
		}
	})
}

// FuzzParse takes any text for a list: what is in it comes back as it came.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"tools":[{"name":"a","description":"b"},{"name":"a"},7,{"x":{"name":"b"},"n\u0061me":"b"}]}`))
	f.Fuzz(func(t *testing.T, result []byte) {
		l, err := Parse(Tools, result)
		if err != nil {
			return
		}
		p := NewPolicy(Config{Mode: Keep, Upstreams: []Upstream{{Name: "u"}}})
		c := Merge(p, []*Lists{{Tools: l}})
		if c.Len(Tools) != l.Len() {
			t.Fatalf("got %d of %d items", c.Len(Tools), l.Len())
		}
		for i := range l.Len() {
			it, raw := l.at(i)
			page, _, _ := c.Page(Tools, i, 1, 0)
			if string(page) != string(raw) || !strings.Contains(string(result), string(raw)) {
				t.Fatalf("item %d is %s, came as %s", i, page, raw)
			}
			if target, verdict := c.Route(Tools, it.name); verdict != Known || target.Name != it.name {
				t.Fatalf("%q leads to %v, verdict %d", it.name, target, verdict)
			}
		}
	})
}
