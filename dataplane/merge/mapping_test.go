package merge

import (
	"testing"
	"unicode/utf8"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWhatAPartMakesUpCarriesItsName(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a"), newServer("b")
		c := newRig(t, a, b).open()
		m := c.up.find(c.id)
		l := m.linkOf("b")
		for _, test := range []struct{ name, in, want string }{
			{"its cancellation", `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"r", "reason":"x"}}`,
				`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"b:\"r\"", "reason":"x"}}`},
			{"a task's state", `{"jsonrpc":"2.0","method":"notifications/tasks/status","params":{"taskId":"t","status":"working"}}`,
				`{"jsonrpc":"2.0","method":"notifications/tasks/status","params":{"taskId":"b:t","status":"working"}}`},
			{"what belongs to a task", `{"jsonrpc":"2.0","id":1,"method":"elicitation/create","params":{"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"t"}}}}`,
				`{"jsonrpc":"2.0","id":"b:1","method":"elicitation/create","params":{"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"b:t"}}}}`},
			{"URIs of a prompt", `{"jsonrpc":"2.0","id":1,"result":{"messages":[{"role":"user","content":{"type":"resource","resource":{"uri":"x:1"}}},{"role":"user","content":[{"type":"resource_link","uri":"x:2"}]}]}}`,
				`{"jsonrpc":"2.0","id":1,"result":{"messages":[{"role":"user","content":{"type":"resource","resource":{"uri":"b+x:1"}}},{"role":"user","content":[{"type":"resource_link","uri":"b+x:2"}]}]}}`},
			{"the client's own token", `{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"uri","progress":1}}`,
				`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"uri","progress":1}}`},
			{"a tool's own field", `{"jsonrpc":"2.0","id":1,"result":{"content":[],"taskId":"mine","structuredContent":{"uri":"x:3"}}}`,
				`{"jsonrpc":"2.0","id":1,"result":{"content":[],"taskId":"mine","structuredContent":{"uri":"x:3"}}}`},
			{"no message", `{"jsonrpc":"2.0"}`, ""},
			{"a request with two ids", `{"jsonrpc":"2.0","method":"ping","id":1,"id":2}`, ""},
		} {
			if got := string(m.forClient(l, []byte(test.in), asked{})); got != test.want {
				t.Errorf("%s: got  %s\nwant %s", test.name, got, test.want)
			}
		}
		messages, same := m.messages(l, []byte(` [{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}]`), asked{})
		if len(messages) != 1 || same || string(messages[0]) != `{"jsonrpc":"2.0","id":"b:1","method":"ping"}` {
			t.Errorf("a batch: got %q", messages)
		}
	})
}

func FuzzMarkedIdsMapBack(f *testing.F) {
	for _, id := range []string{`1`, `-1.5e3`, `"x"`, `"a:b\u00e9\"\\"`, `"\ud83d\ude00"`} {
		f.Add("part", id)
	}
	f.Fuzz(func(t *testing.T, part, id string) {
		marked := markRaw("p", []byte(id))
		of, own, ok := unmarkRaw(marked)
		if ok && utf8.ValidString(id) && (of != "p" || string(own) != id) {
			t.Errorf("%s: got %q %s", id, of, own)
		}
		unmarkRaw([]byte(id)) // whatever a client makes up
		unmarkTask([]byte(id))
		parseCursor(id)
		parsePageCursor([]byte(id), 0)
		parseTaskCursor([]byte(id))
	})
}
