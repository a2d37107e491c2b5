package conformance

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestAnswersAreReadAsWhatTheyAre(t *testing.T) {
	tests := map[string]struct {
		contentType, body string
		request           string
		want              string
		numbered          int
		primed            bool
	}{
		"result":         {"application/json", `{"id":1,"result":{}}`, ping, "200 json result", 0, false},
		"error":          {"application/json; charset=utf-8", `{"id":1,"error":{"code":-32601}}`, ping, "200 json -32601", 0, false},
		"nothing":        {"application/json", " \n", ping, "200 none", 0, false},
		"text":           {"text/plain", "no such thing", ping, "200 text", 0, false},
		"not JSON":       {"application/json", "{", ping, "200 json malformed", 0, false},
		"stream":         {"text/event-stream", ": hello\n\nevent: message\ndata: {\"id\":1,\"result\":{}}\n\n", ping, "200 sse result", 0, false},
		"primed stream":  {"text/event-stream", "id: a\nretry: 5\ndata:\n\nid: b\r\ndata: {\"id\":1,\r\ndata: \"result\":{}}\r\n\r\n", ping, "200 sse result", 2, true},
		"two of a batch": {"text/event-stream", "data: {\"id\":7,\"result\":{}}\n\ndata: {\"id\":8,\"result\":{}}\n\ndata: {\"id\":9,\"result\":{}}\n\n", batch, "200 sse result,result", 0, false},
		"notification":   {"text/event-stream", "id: a\ndata: {\"method\":\"x\"}\n\nid: b\ndata: {\"id\":1,\"error\":{\"code\":1}}\n\n", ping, "200 sse 1", 2, false},
		"cut event":      {"text/event-stream", "data: {\"id\":1,\"result\":{}}\n", ping, "200 sse", 0, false},
	}
	for name, test := range tests {
		server := target(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", test.contentType)
			io.WriteString(w, test.body)
		})
		a := &asker{client: browser(t), url: "http://" + server}
		got, err := a.ask(t.Context(), http.MethodPost, test.request, jsonHeader("", current, nil))
		if err != nil || got.String() != test.want || got.numbered != test.numbered || got.primed != test.primed {
			t.Errorf("%s: got %v, %d numbered, primed %v, %v; want %s, %d, %v", name, got, got.numbered, got.primed, err,
				test.want, test.numbered, test.primed)
		}
	}
}

func TestAskersSendWhatTheyAreToldAndEndTheirSessions(t *testing.T) {
	var seen []string
	server := target(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		seen = append(seen, fmt.Sprintf("%s %s %s %.40s", r.Method, r.Header.Get("Mcp-Session-Id"), r.Header.Get("Accept"), body))
		if strings.Contains(string(body), "initialize\"") {
			w.Header().Set("Mcp-Session-Id", "s1")
			w.Header().Set("Content-Type", "application/json")
			io.WriteString(w, `{"id":1,"result":{}}`)
			return
		}
		w.WriteHeader(http.StatusAccepted)
	})
	a := &asker{client: browser(t), url: "http://" + server}
	session, _, err := a.open(t.Context(), current)
	if err != nil || session != "s1" {
		t.Fatalf("open: got %q, %v, want s1", session, err)
	}
	if _, err := a.ask(t.Context(), http.MethodPost, stray, jsonHeader(session, current, header{"Accept": "x/y"})); err != nil {
		t.Fatal(err)
	}
	a.end(t.Context())
	want := []string{
		"POST  application/json, text/event-stream " + initializeBody(current)[:40],
		`POST s1 application/json, text/event-stream {"jsonrpc":"2.0","method":"notifications`,
		"POST s1 x/y " + stray[:40],
		"DELETE s1  ",
	}
	if got := strings.Join(seen, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}
