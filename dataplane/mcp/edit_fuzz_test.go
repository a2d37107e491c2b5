package mcp

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const prefix = "up/p/"

// FuzzEdits passes a stream on as the relay does: ids get a prefix, and events that
// have data and no id are given one. Nothing else may change, as bytes and as what
// a reader is told.
func FuzzEdits(f *testing.F) {
	f.Add([]byte("id: 7\ndata: #\n\ndata: \x10\ndata: \x11\n\n: c\r\n\r\nid\r\rdata: x\r\n\rid: \x00\n\n"), []byte{1, 2})
	f.Fuzz(func(t *testing.T, stream, sizes []byte) {
		stream = expand(stream)
		var out []byte
		given := 0
		for _, e := range reading(t, stream, sizes) {
			id := fmt.Sprintf("r/%d", given)
			switch {
			case e.Partial:
				out = append(out, e.Raw...)
			case e.HasID() || e.Data(nil) == nil:
				out = append(out, sameButIDs(t, e)...)
			default:
				out = append(out, sameButGiven(t, e, id)...)
				given++
			}
		}
		want := whatwg(string(stream))
		given = 0
		for i, b := range want {
			switch {
			case b.hasID && b.id != "":
				want[i].id = prefix + b.id
			case !b.hasID && b.hasData:
				want[i].id, want[i].hasID = fmt.Sprintf("r/%d", given), true
				given++
			}
		}
		for _, sizes := range [][]byte{nil, {0}, sizes} {
			if got := wholeBlocks(reading(t, out, sizes)); !slices.Equal(got, want) {
				t.Fatalf("%q became %q\n got %+v\nwant %+v", stream, out, got, want)
			}
		}
		if got := whatwg(string(out)); !slices.Equal(got, want) {
			t.Fatalf("%q became %q, which the standard reads as\n %+v, want\n %+v", stream, out, got, want)
		}
	})
}

var withEnds = regexp.MustCompile("[^\r\n]*(?:\r\n|\r|\n|$)")

// sameButIDs returns e with prefixed ids, and checks that this is line by line the
// same but for them.
func sameButIDs(t *testing.T, e Event) []byte {
	got := e.AppendPrefixed([]byte("before"), prefix)
	want := "before"
	for i, line := range withEnds.FindAllString(string(e.Raw), -1) {
		mark := ""
		if i == 0 && e.bom {
			mark = byteOrderMark
		}
		line = strings.TrimPrefix(line, mark)
		name, value, _ := strings.Cut(line, ":")
		space := ""
		if strings.HasPrefix(value, " ") {
			space, value = " ", value[1:]
		}
		if name == "id" && strings.Trim(value, "\r\n") != "" {
			line = name + ":" + space + prefix + value
		}
		want += mark + line
	}
	if string(got) != want {
		t.Fatalf("%q\n got %q\nwant %q", e.Raw, got, want)
	}
	return got[len("before"):]
}

// sameButGiven returns e with an id, and checks that without its line e is left.
func sameButGiven(t *testing.T, e Event, id string) []byte {
	got := e.AppendIdentified([]byte("before"), []byte(id))
	if left := bytes.Replace(got, []byte("id: "+id+"\n"), nil, 1); string(left) != "before"+string(e.Raw) {
		t.Fatalf("%q\n got %q", e.Raw, got)
	}
	return got[len("before"):]
}
