package mcp

import (
	"io"
	"strings"
	"testing"
)

// eventsOf are the blocks of a stream.
func eventsOf(t *testing.T, stream string) []Event {
	t.Helper()
	var all []Event
	r := NewEventReader(strings.NewReader(stream), 0)
	for {
		e, err := r.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		e.Raw = append([]byte(nil), e.Raw...)
		e.Raw = e.Raw[:len(e.Raw):len(e.Raw)]
		all = append(all, e)
	}
}

func TestIDsOfABlockGetAPrefixInPlace(t *testing.T) {
	for stream, want := range map[string]string{
		"id: 1\ndata: {\"id\":1}\n\n":       "id: u/g/1\ndata: {\"id\":1}\n\n",
		"id:1\r\nretry: 5\r\n\r\n":          "id:u/g/1\r\nretry: 5\r\n\r\n",
		": id: 1\nid\ndata: x\n\n":          ": id: 1\nid\ndata: x\n\n",
		"id: \ndata: x\n\n":                 "id: \ndata: x\n\n",
		"data: x\rid:  a:b \r\r":            "data: x\rid: u/g/ a:b \r\r",
		"id: 1\nid: 2\n\n":                  "id: u/g/1\nid: u/g/2\n\n",
		byteOrderMark + "id: 1\ndata:\n\n":  byteOrderMark + "id: u/g/1\ndata:\n\n",
		"idx: 1\nID: 2\ndata: id: 3\n\n":    "idx: 1\nID: 2\ndata: id: 3\n\n",
		"event: prime\nid: s_0\ndata: \n\n": "event: prime\nid: u/g/s_0\ndata: \n\n",
	} {
		for _, e := range eventsOf(t, stream) {
			if got := string(e.AppendPrefixed([]byte("#"), "u/g/")); got != "#"+want {
				t.Errorf("%q: got %q, want %q", stream, got, "#"+want)
			}
		}
	}
}

func TestABlockWithoutAnIDGetsOne(t *testing.T) {
	for stream, want := range map[string]string{
		"data: x\n\n":                  "id: 7\ndata: x\n\n",
		byteOrderMark + "data: x\r\r":  byteOrderMark + "id: 7\ndata: x\r\r",
		": comment\r\ndata: x\r\n\r\n": "id: 7\n: comment\r\ndata: x\r\n\r\n",
	} {
		if got := string(eventsOf(t, stream)[0].AppendIdentified(nil, []byte("7"))); got != want {
			t.Errorf("%q: got %q, want %q", stream, got, want)
		}
	}
	late := Event{Raw: []byte("\ndata: x\n\n")}
	if got, want := string(late.AppendIdentified(nil, []byte("7"))), "\nid: 7\ndata: x\n\n"; got != want {
		t.Errorf("after a late LF: got %q, want %q", got, want)
	}
}

func TestKindOf(t *testing.T) {
	for text, want := range map[string]struct {
		kind Kind
		id   string
	}{
		`{"jsonrpc":"2.0","id":1,"result":{}}`:                         {KindResponse, ""},
		`{"error":{"method":"m"},"id":1}`:                              {KindResponse, ""},
		` { "method" : "m" , "params":{"id":5,"result":1}, "id":41}`:   {KindRequest, "41"},
		`{"id":"a b","params":[],"method":"m"}`:                        {KindRequest, `"a b"`},
		`{"id":1.50,"method":"m","params":{broken`:                     {KindRequest, "1.50"},
		`{"jsonrpc":"2.0","method":"m","params":{"id":5}}`:             {KindNotification, ""},
		`[{"method":"m"},{"id":1,"result":1}]`:                         {KindResponse, ""},
		`[{"method":"m"},{"id":1,"method":"m"},{"id":2,"method":"m"}]`: {KindRequest, "1"},
		`[{"method":"m"},{"method":"n"}]`:                              {KindNotification, ""},
		`[{"method":"m"},{"method":`:                                   {KindNotification, ""},
		`[{"id":4,"method":"m"},{"id":1,"error":{}}`:                   {KindResponse, ""},
		`{"i\u0064":7,"m\u0065thod":"m"}`:                              {KindRequest, "7"},
		`{"id":7,"res\u0075lt":{}}`:                                    {KindResponse, ""},
		`{"Id":7,"Error":1,"method":"m"}`:                              {KindNotification, ""},
		`{"jsonrpc":"2.0","id":1}`:                                     {0, "1"},
		`{"method":"m"`:                                                {0, ""},
		`{}`:                                                           {0, ""},
		`[]`:                                                           {0, ""},
		`"x"`:                                                          {0, ""},
		``:                                                             {0, ""},
	} {
		kind, id := KindOf([]byte(text))
		if kind != want.kind || string(id) != want.id {
			t.Errorf("%s: got %v %q, want %v %q", text, kind, id, want.kind, want.id)
		}
	}
}
