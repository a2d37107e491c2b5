package mcp

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
)

// paths reads paths such as "content/[]/uri".
func paths(texts ...string) [][]string {
	all := make([][]string, len(texts))
	for i, text := range texts {
		if text != "" {
			all[i] = strings.Split(text, "/")
		}
	}
	return all
}

func TestSpliceReplacesWhatIsAtThePathsAndNothingElse(t *testing.T) {
	for _, tt := range []struct {
		raw, paths string // the first path's value becomes 0, the second's 1
		want       string // "" if it is refused
	}{
		{` { "a" : [1, 2] ,"b":1e999 } `, "a", ` { "a" : 0 ,"b":1e999 } `},
		{`{"a":{"b":"x","\u0062c":1},"b":2}`, "a/b b", `{"a":{"b":0,"\u0062c":1},"b":1}`},
		{`{"\u0061":1}`, "a", `{"\u0061":0}`},
		{`{"content":[{"uri":"x"},{"resource":{"uri":"y"}},{"text":"uri"},[{"uri":"z"}],7]}`, "content/[]/uri content/[]/resource/uri",
			`{"content":[{"uri":0},{"resource":{"uri":1}},{"text":"uri"},[{"uri":"z"}],7]}`},
		{`[[1,[2]],3,[]]`, "[]/[]", `[[0,0],3,[]]`},
		{`{"a":{"b":1},"c":2}`, "a a/b", `{"a":0,"c":2}`},
		{`{"a":{"b":1},"c":2}`, "a/b a", `{"a":1,"c":2}`},
		{`{"a":1}`, "a a", `{"a":0}`},
		{` 7 `, "", ` 0 `},
		{`{"a":{"x":1,"x":2}}`, "b", `{"a":{"x":1,"x":2}}`},
		{`{"b":{"a":1,"a":2},"a":3}`, "a", `{"b":{"a":1,"a":2},"a":0}`},
		{`{"a":[1]}`, "a/b", `{"a":[1]}`},
		{`{"[]":1}`, "[]", `{"[]":1}`},
		{`{}`, "a", `{}`},
		{`{"a":1,"a":2}`, "a", ""},
		{`{"a":1,"\u0061":2}`, "a", ""},
		{`{"a":1,"A":2}`, "a", ""},
		{`{"A":1}`, "a", ""},
		{`{"c":[{"u":1},{"u":1,"U":2}]}`, "c/[]/u", ""},
		{`{"a":{"b":1},"a":3}`, "a/b", ""},
		{`{"a":1} x`, "a", ""},
		{`{"a":1`, "a", ""},
		{`{"a":tru}`, "a", ""},
		{``, "", ""},
	} {
		where := paths(strings.Split(tt.paths, " ")...)
		got, ok := Splice([]byte("#"), []byte(tt.raw), where, func(path int, _ []byte) []byte { return []byte{'0' + byte(path)} })
		if want := "#" + tt.want; string(got) != want || ok != (tt.want != "") {
			t.Errorf("%s at %s: got %s, %v, want %s", tt.raw, tt.paths, got, ok, want)
		}
	}
}

func TestSpliceGivesEachValueInOrderAndKeepsIt(t *testing.T) {
	raw := []byte(`{"m":{"t":[ {"i":"1"},{"i": 2 },{},{"i":null}]},"i":{"i":"x"}}`)
	var got []string
	out, ok := Splice(nil, raw, paths("i/i", "m/t/[]/i"), func(path int, value []byte) []byte {
		got = append(got, string('0'+rune(path))+string(value))
		_ = append(value, "overwrites nothing"...)
		return nil
	})
	if want := []string{`1"1"`, "12", "1null", `0"x"`}; !ok || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, ok, want)
	}
	if !bytes.Equal(out, raw) || !json.Valid(raw) {
		t.Errorf("got %s, want %s", out, raw)
	}
}

func TestSpliceTakesAsManyPathsAsItSays(t *testing.T) {
	many := slices.Repeat([][]string{{"a"}}, MaxPaths-1)
	last := append(many, []string{"b"})
	if got, ok := Splice(nil, []byte(`{"b":1}`), last, func(path int, _ []byte) []byte { return []byte("2") }); !ok || string(got) != `{"b":2}` {
		t.Errorf("got %s, %v", got, ok)
	}
	defer func() {
		if recover() == nil {
			t.Error("one path more was taken")
		}
	}()
	Find(nil, append(last, nil), nil)
}

func TestElements(t *testing.T) {
	for raw, want := range map[string][]string{
		` [1, {"a":[2]} ,"]"] `: {"1", `{"a":[2]}`, `"]"`},
		`[]`:                    nil,
		`{"a":[1]}`:             nil,
		`7`:                     nil,
		``:                      nil,
	} {
		var got []string
		for e := range Elements([]byte(raw)) {
			got = append(got, string(e))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", raw, got, want)
		}
	}
	for range Elements([]byte(`[1,2]`)) {
		break
	}
}

// FuzzSplice compares Splice to decoding the whole text and changing the value there,
// and to Lookup.
func FuzzSplice(f *testing.F) {
	for _, raw := range []string{`{"a":{"b":1},"c":[{"a":2},{"b":3}]}`, `{"a":1,"A":2}`, `[[{"a":"\u0061"}]]`, ` {"a":{"a":{"a":[]}}} `, `{"a":1`, `{"b":"x","b":1}`} {
		for _, path := range []string{"a", "a/b", "c/[]/a", "[]/[]/a", "a/a/a", "b"} {
			f.Add([]byte(raw), path, "c")
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte, one, other string) {
		if strings.Count(one, "/") > 20 || strings.ContainsFunc(one+other, func(r rune) bool { return r > 0x7f }) {
			return
		}
		both := paths(one, other)
		same, ok := Splice(nil, raw, both, func(int, []byte) []byte { return nil })
		if ok && !bytes.Equal(same, raw) {
			t.Fatalf("%s became %s", raw, same)
		}
		if ok && !json.Valid(raw) {
			t.Fatalf("%q was taken", raw)
		}
		const mark = `"\u006dark"`
		path := both[0]
		var last []byte
		found := 0
		got, ok := Splice(nil, raw, both[:1], func(_ int, value []byte) []byte {
			last, found = value, found+1
			return []byte(mark)
		})
		if !slices.Contains(path, Each) {
			value, there := Lookup(raw, path...)
			if there && (!ok || found != 1 || !bytes.Equal(value, last)) {
				t.Fatalf("%s at %q: Lookup found %s, Splice %s %d times, %v", raw, one, value, last, found, ok)
			}
			if ok && !there && found > 0 {
				t.Fatalf("%s at %q: Lookup found nothing, Splice %s", raw, one, last)
			}
		}
		if !ok {
			return
		}
		if !bytes.Contains(raw, []byte(mark)) && len(got) > 0 && found != bytes.Count(got, []byte(mark)) {
			t.Fatalf("%s at %q: %d values are marked in %s, want %d", raw, one, bytes.Count(got, []byte(mark)), got, found)
		}
		if want := marked(decoded(raw), path); !equalJSON(want, decoded(got)) {
			t.Fatalf("%s at %q became %s", raw, one, got)
		}
	})
}

func decoded(raw []byte) any {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return nil
	}
	return v
}

// marked returns v with "mark" at the path.
func marked(v any, path []string) any {
	if len(path) == 0 {
		return "mark"
	}
	switch v := v.(type) {
	case map[string]any:
		if member, ok := v[path[0]]; ok && path[0] != Each {
			v[path[0]] = marked(member, path[1:])
		}
	case []any:
		for i := range v {
			if path[0] == Each {
				v[i] = marked(v[i], path[1:])
			}
		}
	}
	return v
}

func equalJSON(a, b any) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return bytes.Equal(x, y)
}
