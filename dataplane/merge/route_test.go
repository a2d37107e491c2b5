package merge

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/leasehold/leasehold/dataplane/catalogue"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

// recorder answers requests of a method with what a test wants, and keeps them.
type recorder struct {
	method, result string

	mu     sync.Mutex
	bodies []string
}

func (r *recorder) on(_ context.Context, d *session.Dispatch, m *mcp.Message) (*http.Response, error) {
	if m.Method != r.method {
		return nil, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bodies = append(r.bodies, string(d.Body))
	if m.Kind != mcp.KindRequest {
		return accepted(), nil
	}
	return result(m.ID, []byte(r.result)), nil
}

func (r *recorder) newest() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.bodies) == 0 {
		return ""
	}
	return r.bodies[len(r.bodies)-1]
}

func TestACallGoesOutAsItCameButForItsName(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a", "x"), newServer("b", "x")
		rec := &recorder{method: "tools/call", result: `{ "content" : [ ], "big":12345678901234567890 }`}
		b.on = rec.on
		c := newRig(t, a, b).open()
		got := c.post(`{"jsonrpc":"2.0", "id":"odd\u0041" ,"method":"tools/call","params":{ "arguments":{"n":1.0,"m":12345678901234567890}, "name" : "b_x" ,"_meta":{"progressToken":7} }}`)
		if want := `{"jsonrpc":"2.0", "id":"odd\u0041" ,"method":"tools/call","params":{ "arguments":{"n":1.0,"m":12345678901234567890}, "name" : "x" ,"_meta":{"progressToken":7} }}`; rec.newest() != want {
			t.Errorf("upstream got  %s\nwant          %s", rec.newest(), want)
		}
		if want := `{"jsonrpc":"2.0","id":"odd\u0041","result":{ "content" : [ ], "big":12345678901234567890 }}`; got != want {
			t.Errorf("client got %s, want %s", got, want)
		}
	})
}

func TestResourcesAreFoundByURIAndTheirURIsMapBack(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a"), newServer("b")
		a.items[catalogue.Resources] = []string{`{"uri":"file:///same","name":"s"}`, `{"uri":"file:///a","name":"a"}`}
		b.items[catalogue.Resources] = []string{`{"uri":"file:///same","name":"s"}`}
		b.items[catalogue.Templates] = []string{`{"uriTemplate":"db://{table}/{id}","name":"t"}`}
		c := newRig(t, a, b).open()
		wantSlice(t, "resources", c.names(catalogue.Resources), []string{"a+file:///same", "file:///a", "b+file:///same"})
		for uri, want := range map[string]string{
			"file:///a":      `"contents":[{"uri":"file:///a","text":"of a"}]`,
			"b+file:///same": `"contents":[{"uri":"b+file:///same","text":"of b"}]`,
			"a+file:///same": `"contents":[{"uri":"a+file:///same","text":"of a"}]`,
			"db://users/1":   `"contents":[{"uri":"db://users/1","text":"of b"}]`,
			"a+made:up":      `"contents":[{"uri":"a+made:up","text":"of a"}]`,
			"nobody:knows":   `"code":-32602`,
		} {
			wantText(t, uri, c.ask("resources/read", fmt.Sprintf(`{"uri":%q}`, uri)), want)
		}
		if a.heard("resources/read made:up") != 1 || b.heard("resources/read file:///same") != 1 {
			t.Errorf("the upstreams got other URIs: %q %q", a.ledger, b.ledger)
		}
		b.on = (&recorder{method: "tools/call", result: `{"content":[{"type":"resource_link","uri":"file:///same"},{"type":"resource","resource":{"uri":"file:///new"}},{"type":"text","text":"\"uri\""}]}`}).on
		b.set(func() { b.items[catalogue.Tools] = []string{`{"name":"t"}`} })
		time.Sleep(freshFor)
		wantText(t, "links in a result", c.call("b_t"), `{"type":"resource_link","uri":"b+file:///same"}`, `"resource":{"uri":"b+file:///new"}`)
	})
}

func TestASubscriptionIsAtItsPartAndIsRenewedThere(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a", "x"), newServer("b", "y")
		b.items[catalogue.Resources] = []string{`{"uri":"file:///same","name":"s"}`}
		a.items[catalogue.Resources] = b.items[catalogue.Resources]
		c := newRig(t, a, b).open()
		s := c.listen("")
		wantText(t, "subscribe", c.ask("resources/subscribe", `{"uri":"b+file:///same"}`), `"result":{}`)
		b.say(`{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"file:///same","x":1}}`)
		wantSlice(t, "told", s.messages(), []string{`{"jsonrpc":"2.0","method":"notifications/resources/updated","params":{"uri":"b+file:///same","x":1}}`})
		b.forgetSessions()
		c.call("b_y")
		time.Sleep(time.Second)
		if got := b.heard("resources/subscribe file:///same"); got != 2 {
			t.Errorf("b was subscribed at %d times, want 2: its new session too", got)
		}
		if a.heard("resources/subscribe file:///same") != 0 {
			t.Error("a was subscribed at")
		}
		c.ask("resources/unsubscribe", `{"uri":"b+file:///same"}`)
		if m := c.up.find(c.id); len(m.subscribed) != 0 {
			t.Errorf("remembered after unsubscribe: %v", m.subscribed)
		}
	})
}

func TestTheLogLevelGoesToAllThatLogAndToThoseThatComeLater(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b, late := newServer("a", "x"), newServer("b", "y"), newServer("late", "z")
		b.caps, late.dead = `{"tools":{}}`, errDown
		r := newRig(t, a, b, late)
		c := r.open()
		wantText(t, "setLevel", c.ask("logging/setLevel", `{"level":"debug"}`), `"result":{}`)
		late.set(func() { late.dead = nil })
		time.Sleep(10 * time.Second)
		if a.heard("logging/setLevel") != 1 || b.heard("logging/setLevel") != 0 || late.heard("logging/setLevel") != 1 {
			t.Errorf("a, b, late heard of it %d, %d, %d times; want 1, 0, 1", a.heard("logging/setLevel"), b.heard("logging/setLevel"), late.heard("logging/setLevel"))
		}
		wantText(t, "not a level", c.ask("logging/setLevel", `{}`), `"code":-32602`)
	})
}

func TestCompletionsGoWhereTheReferenceLeads(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a"), newServer("b")
		a.items[catalogue.Prompts], b.items[catalogue.Prompts] = []string{`{"name":"p"}`}, []string{`{"name":"p"}`}
		b.items[catalogue.Templates] = []string{`{"uriTemplate":"db://{table}","name":"t"}`}
		rec := &recorder{method: "completion/complete", result: `{"completion":{"values":["v"]}}`}
		b.on = rec.on
		c := newRig(t, a, b).open()
		wantText(t, "of a prompt", c.ask("completion/complete", `{"ref":{"type":"ref/prompt","name":"b_p"},"argument":{"name":"x","value":""}}`), `"values":["v"]`)
		wantText(t, "sent", rec.newest(), `"ref":{"type":"ref/prompt","name":"p"}`)
		wantText(t, "of a template", c.ask("completion/complete", `{"ref":{"type":"ref/resource","uri":"db://{table}"},"argument":{"name":"table","value":""}}`), `"values":["v"]`)
		wantText(t, "of nothing", c.ask("completion/complete", `{"ref":{"type":"ref/prompt","name":"c_p"}}`), `"code":-32602`)
	})
}

func TestTasksCarryTheirUpstreamAndMapBackExactly(t *testing.T) {
	virtually(t, func(t *testing.T) {
		const caps = `{"tools":{},"tasks":{"list":{},"cancel":{}}}`
		a, b, none := newServer("a", "x"), newServer("b", "x"), newServer("none")
		a.caps, b.caps = caps, caps
		create := &recorder{method: "tools/call", result: `{"task":{"taskId":"t:1","status":"working"}}`}
		get := &recorder{method: "tasks/get", result: `{"taskId":"t:1","status":"completed"}`}
		outcome := &recorder{method: "tasks/result", result: `{"content":[],"_meta":{"io.modelcontextprotocol/related-task":{"taskId":"t:1"}}}`}
		list := &recorder{method: "tasks/list", result: `{"tasks":[{"taskId":"t:1"}]}`}
		b.on = func(ctx context.Context, d *session.Dispatch, m *mcp.Message) (*http.Response, error) {
			for _, rec := range []*recorder{create, get, outcome, list} {
				if answer, err := rec.on(ctx, d, m); answer != nil {
					return answer, err
				}
			}
			return nil, nil
		}
		a.on = (&recorder{method: "tasks/list", result: `{"tasks":[{"taskId":"t:1","x":1}]}`}).on
		c := newRig(t, a, none, b).open()
		wantText(t, "created", c.ask("tools/call", `{"name":"b_x","task":{"ttl":1}}`), `"taskId":"b:t:1"`)
		wantText(t, "asked for", c.ask("tasks/get", `{"taskId":"b:t:1"}`), `"taskId":"b:t:1"`)
		wantText(t, "sent", get.newest(), `"taskId":"t:1"`)
		wantText(t, "its result", c.ask("tasks/result", `{"taskId":"b:t:1"}`), `related-task":{"taskId":"b:t:1"}`)
		first := c.ask("tasks/list", `{}`)
		wantText(t, "first page", first, `"tasks":[{"taskId":"a:t:1","x":1}]`, `"nextCursor":"`)
		_, cursor, _ := strings.Cut(first, `"nextCursor":"`)
		cursor, _, _ = strings.Cut(cursor, `"`)
		last := c.ask("tasks/list", `{"cursor":"`+cursor+`"}`)
		wantText(t, "second page", last, `"tasks":[{"taskId":"b:t:1"}]`)
		if strings.Contains(last, "nextCursor") {
			t.Errorf("there is more after the last page: %s", last)
		}
		wantText(t, "nobody's", c.ask("tasks/get", `{"taskId":"t:1"}`), `"code":-32602`)
	})
}

func TestPingIsAnsweredHereAndOtherMethodsByTheOnlyPartThatCouldMeanThem(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a"), newServer("b")
		b.caps = `{"experimental":{"acme":{}}}`
		c := newRig(t, a, b).open()
		wantText(t, "ping", c.ask("ping", "{}"), `"result":{}`)
		wantText(t, "acme/do", c.ask("acme/do", "{}"), `"result":{}`)
		wantText(t, "odd/do", c.ask("odd/do", "{}"), `"code":-32601`)
		if a.heard("ping")+b.heard("ping") != 0 || b.heard("acme/do") != 1 {
			t.Errorf("ledgers: %q %q", a.ledger, b.ledger)
		}
	})
}

func TestAPartThatIsDownIsNamedAtOnce(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b, late := newServer("a", "x"), newServer("b", "y"), newServer("late", "z")
		late.dead = errDown
		r := newRig(t, a, b, late)
		c := r.open()
		c.names(catalogue.Tools)
		b.set(func() { b.dead = errDown })
		began := time.Now()
		wantText(t, "a part that went away", c.call("b_y"), `"error":{"code":5020,"message":"upstream \"b\" could not be reached; the request was not sent","data":{"executed":"no","upstream":"b"}}`)
		late.set(func() { late.dead, late.slow = nil, 20*time.Second })
		time.Sleep(time.Second)
		began = began.Add(time.Second)
		wantText(t, "a part that failed and is slow now", c.call("late_z"), `"upstream":"late"`)
		if took := time.Since(began); took != 0 {
			t.Errorf("the errors took %v", took)
		}
		wantText(t, "the other", c.call("a_x"), `"text":"a x"`)
		b.set(func() { b.dead = nil })
		b.on = func(_ context.Context, _ *session.Dispatch, m *mcp.Message) (*http.Response, error) {
			if m.Method != "tools/call" {
				return nil, nil
			}
			return refuse(http.StatusServiceUnavailable, &mcp.Error{Code: mcp.CodeUnavailable, Message: "has 5 requests in flight", ID: m.ID}), nil
		}
		wantText(t, "at its limit", c.call("b_y"), `"code":5020`, `answered HTTP 503: has 5 requests in flight`, `"data":{"executed":"no","upstream":"b"}`)
	})
}

func TestACallWhoseOutcomeIsUnknownSaysSoAndNamesItsUpstream(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a", "x"), newServer("b", "y")
		c := newRig(t, a, b).open()
		c.names(catalogue.Tools)
		b.on = func(_ context.Context, _ *session.Dispatch, m *mcp.Message) (*http.Response, error) {
			if m.Method == "tools/call" {
				return nil, session.ErrSilent
			}
			return nil, nil
		}
		wantText(t, "call", c.call("b_y"), `"code":5040`, `"data":{"executed":"unknown","tool":"b_y","upstream":"b"}`, `was silent for 5m0s`)
		synctest.Wait()
		if b.heard("notifications/cancelled") != 1 {
			t.Error("b was not told that nobody waits any more")
		}
	})
}

func TestABatchIsServedMessageByMessage(t *testing.T) {
	virtually(t, func(t *testing.T) {
		a, b := newServer("a", "x"), newServer("b", "y")
		c := newRig(t, a, b).open()
		got := c.post(`[{"jsonrpc":"2.0","method":"notifications/roots/list_changed"},{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"a_x"}},{"jsonrpc":"2.0","id":8,"method":"tools/call","params":{"name":"b_y"}}]`)
		wantText(t, "answers", got, `"id":7,"result":{"content":[{"type":"text","text":"a x"}]}`, `"id":8,"result":{"content":[{"type":"text","text":"b y"}]}`)
		if a.heard("notifications/roots/list_changed") != 1 || b.heard("notifications/roots/list_changed") != 1 {
			t.Error("not all heard that roots have changed")
		}
		if got := c.post(`[{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}]`); got != "" {
			t.Errorf("without requests: got %q", got)
		}
	})
}
