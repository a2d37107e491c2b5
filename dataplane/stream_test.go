package dataplane_test

import (
	"bufio"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/leasehold/leasehold/dataplane"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestASilentStreamCarriesCommentsAndEventsStayWhole(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	start := func() *worker {
		return startWorkerWith(t, p, func(cfg *dataplane.Config) { cfg.SetKeepAlive(20 * time.Millisecond) })
	}
	owner, other := start(), start()
	c := newClient(t, "g")
	c.initialize(owner)
	speak := make(chan struct{})
	u.setHook(func(w http.ResponseWriter, r *http.Request, _ string) bool {
		if r.Method != http.MethodGet {
			return false
		}
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		for i := range 3 {
			<-speak
			fmt.Fprintf(w, "id: %d\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"m\",\"params\":{\"n\":%d}}\n\n", i, i)
			w.(http.Flusher).Flush()
		}
		return true
	})
	for name, w := range map[string]*worker{"owner": owner, "forwarded": other} {
		r, _ := http.NewRequest(http.MethodGet, w.url+c.path, nil)
		r.Header = http.Header{"Accept": {"text/event-stream"}, "Mcp-Session-Id": {c.session}}
		resp, err := c.http.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		var events []string
		for comments, lines := 0, bufio.NewScanner(resp.Body); lines.Scan(); {
			switch line := lines.Text(); {
			case strings.HasPrefix(line, ":"):
				if comments++; comments%2 == 0 && len(events) < 6 {
					speak <- struct{}{}
				}
			case line != "":
				events = append(events, line)
			}
		}
		resp.Body.Close()
		want := `id: up/g/0|data: {"jsonrpc":"2.0","method":"m","params":{"n":0}}|id: up/g/1|data: {"jsonrpc":"2.0","method":"m","params":{"n":1}}|id: up/g/2|data: {"jsonrpc":"2.0","method":"m","params":{"n":2}}`
		if got := strings.Join(events, "|"); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

func TestAnUpstreamThatSaysWith400ThatItLostTheSessionEndsIt(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	w := startWorker(t, p)
	early, late := newClient(t, "g"), newClient(t, "g")
	early.initialize(w)
	late.initialize(w)
	late.call(w)
	u.setHook(func(w http.ResponseWriter, _ *http.Request, _ string) bool {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: Server not initialized"},"id":null}`)
		return true
	})
	if status, body := early.call(w); status != http.StatusBadRequest || !strings.Contains(body, "not initialized") {
		t.Errorf("before the upstream served the session: got %d %s, want its own answer", status, body)
	}
	if status, body := late.call(w); status != http.StatusNotFound || !strings.Contains(body, "-32001") {
		t.Errorf("afterwards: got %d %s, want 404 with code -32001", status, body)
	}
	eventually(t, "the end is recorded", func() bool {
		reasons := p.tombstones()
		return len(reasons) == 1 && reasons[0] == leaseholdv1.EndReason_END_REASON_UPSTREAM_LOST
	})
}
