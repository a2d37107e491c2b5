package ledger

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	mcpgo "github.com/mark3labs/mcp-go/client"
	mcpgotypes "github.com/mark3labs/mcp-go/mcp"
	gosdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/poll"
)

// serve starts a ledger in this process.
func serve(t *testing.T) Remote {
	t.Helper()
	l := New()
	server := httptest.NewUnstartedServer(nil)
	server.Config = l.Server()
	server.Start()
	t.Cleanup(server.Close)
	return Remote{Base: server.URL}
}

// report reads the ledger.
func report(t *testing.T, r Remote) Report {
	t.Helper()
	got, err := r.Report(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestLedgerRecordsWhoAskedForWhat(t *testing.T) {
	ctx, remote := t.Context(), serve(t)
	if err := remote.Know(ctx, []int{os.Getpid()}); err != nil {
		t.Fatal(err)
	}
	s, err := client.Open(ctx, remote.URL())
	if err != nil {
		t.Fatal(err)
	}
	for want := 1; want <= 3; want++ {
		if got, err := s.Increment(ctx, remote.URL()); err != nil || got != want {
			t.Fatalf("increment = %d, %v; want %d", got, err, want)
		}
	}
	if r := report(t, remote); len(r.Live) != 1 || r.Opened != 1 {
		t.Errorf("live %v, opened %d; want one of each", r.Live, r.Opened)
	}
	if err := s.Close(ctx, remote.URL()); err != nil {
		t.Fatal(err)
	}
	r := report(t, remote)
	if len(r.Live) != 0 {
		t.Errorf("live after DELETE: %v", r.Live)
	}
	var asked []string
	for _, e := range r.Entries {
		asked = append(asked, strings.TrimSpace(e.HTTP+" "+e.Method+" "+e.Result))
		if e.Session != s.ID || e.PID != os.Getpid() || e.Port == 0 {
			t.Errorf("entry %+v: want session %s and process %d", e, s.ID, os.Getpid())
		}
	}
	want := "POST initialize, POST notifications/initialized, POST tools/call 1, POST tools/call 2, POST tools/call 3, DELETE"
	if got := strings.Join(asked, ", "); got != want {
		t.Errorf("entries: got %s\nwant %s", got, want)
	}
}

func TestLedgerKnowsOnlyLiveSessions(t *testing.T) {
	ctx, remote := t.Context(), serve(t)
	s, err := client.Open(ctx, remote.URL())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(ctx, remote.URL()); err != nil {
		t.Fatal(err)
	}
	for name, header := range map[string]string{"ended": s.ID, "unknown": "nobody"} {
		stranger := client.Session{ID: header, Protocol: client.Version}
		resp, err := stranger.Do(ctx, "POST", remote.URL(), []byte(`{"jsonrpc":"2.0","id":7,"method":"ping"}`))
		if err != nil {
			t.Fatal(err)
		}
		if e, _ := resp.Envelope(); resp.Status != 404 || e.Error == nil || e.Error.Code != -32001 || string(e.ID) != "7" {
			t.Errorf("%s session: status %d, body %s; want 404, -32001 and id 7", name, resp.Status, resp.Body)
		}
	}
}

func TestLedgerStreamsProgressAndNotifications(t *testing.T) {
	ctx, remote := t.Context(), serve(t)
	s, err := client.Open(ctx, remote.URL())
	if err != nil {
		t.Fatal(err)
	}
	stream, err := client.Stream(ctx, "GET", remote.URL(), s.Header(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	if text, err := s.Call(ctx, remote.URL(), "notify", `{"text":"hello"}`); err != nil || text != "sent" {
		t.Fatalf("notify: %q, %v", text, err)
	}
	if line, _ := bufio.NewReader(stream.Body).ReadString('\n'); !strings.Contains(line, `"data":"hello"`) {
		t.Errorf("GET stream began with %q, want the notification", line)
	}
	resp, err := s.Do(ctx, "POST", remote.URL(), []byte(`{"jsonrpc":"2.0","id":2,"method":"tools/call",`+
		`"params":{"name":"slow","arguments":{"ms":3,"steps":3},"_meta":{"progressToken":"p"}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(resp.Body), `"progressToken":"p"`); got != 3 || !strings.Contains(string(resp.Body), `"id":2`) {
		t.Errorf("slow answered %q; want 3 progress events and the result", resp.Body)
	}
}

func TestNumberedStreamGoesOnAfterItsLastEvent(t *testing.T) {
	ctx, remote := t.Context(), serve(t)
	s, err := client.Open(ctx, remote.URL()+Numbered)
	if err != nil {
		t.Fatal(err)
	}
	notify := func(text string) {
		t.Helper()
		if got, err := s.Call(ctx, remote.URL(), "notify", fmt.Sprintf(`{"text":%q}`, text)); err != nil || got != "sent" {
			t.Fatalf("notify: %q, %v", got, err)
		}
	}
	// hear listens after an event until it has been told so many lines.
	hear := func(after string, meanwhile func(), lines ...string) {
		t.Helper()
		header := s.Header()
		if after != "" {
			header.Set("Last-Event-ID", after)
		}
		var stream *http.Response
		_, err := poll.Until(ctx, 5*time.Second, func(ctx context.Context) (err error) {
			if stream, err = client.Stream(t.Context(), "GET", remote.URL(), header, nil); err == nil && stream.StatusCode != 200 {
				stream.Body.Close() // the server has not noticed that the stream before is over
				err = fmt.Errorf("status %d", stream.StatusCode)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Body.Close()
		meanwhile()
		reader := bufio.NewReader(stream.Body)
		for _, line := range lines {
			if got, err := reader.ReadString('\n'); err != nil || !strings.Contains(got, line) {
				t.Fatalf("after %q: line %q, %v; want %q in it", after, got, err, line)
			}
		}
	}
	notify("before")
	hear("", func() { notify("while") }, "id: 1", "data:", "", "id: 2", `"data":"while"`, "")
	notify("between")
	hear("2", func() { notify("again") }, "id: 2", "data:", "", "id: 3", `"data":"between"`, "", "id: 4", `"data":"again"`, "")
	hear("1", func() {}, "id: 1", "data:", "", "id: 2", `"data":"while"`, "", "id: 3", `"data":"between"`, "")
	for range kept {
		notify("more")
	}
	for _, id := range []string{"3", "5000", "x"} {
		header := s.Header()
		header.Set("Last-Event-ID", id)
		resp, err := client.Do(ctx, "GET", remote.URL(), header, nil)
		if err != nil || resp.Status != 400 {
			t.Errorf("after %q: %d, %v; want 400", id, resp.Status, err)
		}
	}
}

func TestGateHoldsCallsUntilReleased(t *testing.T) {
	ctx, remote := t.Context(), serve(t)
	s, err := client.Open(ctx, remote.URL())
	if err != nil {
		t.Fatal(err)
	}
	var calls sync.WaitGroup
	calls.Go(func() {
		if text, err := s.Call(ctx, remote.URL(), "gate", `{"name":"g"}`); err != nil || text != "released" {
			t.Errorf("gate: %q, %v", text, err)
		}
	})
	if err := remote.Release(ctx, "g"); err != nil {
		t.Fatal(err)
	}
	calls.Wait()
}

func TestMarkIsWrittenDownEvenIfTheCallerLeaves(t *testing.T) {
	ctx, remote := t.Context(), serve(t)
	s, err := client.Open(ctx, remote.URL())
	if err != nil {
		t.Fatal(err)
	}
	if text, err := s.Call(ctx, remote.URL(), "mark", `{"tag":"a"}`); err != nil || text != "a 1" {
		t.Fatalf("mark: got %q, %v; want a 1", text, err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if text, err := s.Call(short, remote.URL(), "mark", `{"tag":"b","ms":60000}`); err == nil {
		t.Fatalf("mark that takes a minute: got %q at once", text)
	}
	var marks []Entry
	_, err = poll.Until(ctx, 5*time.Second, func(ctx context.Context) error {
		r, err := remote.Take(ctx)
		for _, e := range r.Entries {
			if e.Tool == "mark" {
				marks = append(marks, e)
			}
		}
		if err == nil && len(marks) < 2 {
			err = fmt.Errorf("%d marks are written down, want 2", len(marks))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"a", "b"} {
		if e := marks[i]; e.Tag != want || e.Count != int64(i+1) || e.End.Before(e.Time) || e.Session != s.ID {
			t.Errorf("mark %d is written down as %+v, want tag %s and count %d", i, e, want, i+1)
		}
	}
	if r := report(t, remote); len(r.Entries) != 0 || len(r.Live) != 1 {
		t.Errorf("once taken, the ledger has %d entries and %d sessions; want none and 1", len(r.Entries), len(r.Live))
	}
}

func TestMCPGoClientUsesTheLedger(t *testing.T) {
	ctx, remote := t.Context(), serve(t)
	c, err := mcpgo.NewStreamableHttpClient(remote.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Initialize(ctx, mcpgotypes.InitializeRequest{}); err != nil {
		t.Fatal(err)
	}
	var call mcpgotypes.CallToolRequest
	call.Params.Name = "counter_increment"
	result, err := c.CallTool(ctx, call)
	if err != nil {
		t.Fatal(err)
	}
	if text, ok := result.Content[0].(mcpgotypes.TextContent); !ok || text.Text != "1" {
		t.Errorf("counter_increment = %+v, want 1", result.Content)
	}
}

func TestGoSDKClientUsesTheLedger(t *testing.T) {
	ctx, remote := context.Background(), serve(t)
	c := gosdk.NewClient(&gosdk.Implementation{Name: "test", Version: "1"}, nil)
	s, err := c.Connect(ctx, &gosdk.StreamableClientTransport{Endpoint: remote.URL()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	result, err := s.CallTool(ctx, &gosdk.CallToolParams{Name: "counter_increment"})
	if err != nil {
		t.Fatal(err)
	}
	if text, ok := result.Content[0].(*gosdk.TextContent); !ok || text.Text != "1" {
		t.Errorf("counter_increment = %+v, want 1", result.Content)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if r := report(t, remote); len(r.Live) != 0 {
		t.Errorf("live after close: %v", r.Live)
	}
}

func TestCallIsAnsweredAtOnceWhenItIsCancelled(t *testing.T) {
	ctx, remote := t.Context(), serve(t)
	s, err := client.Open(ctx, remote.URL())
	if err != nil {
		t.Fatal(err)
	}
	var calls sync.WaitGroup
	calls.Go(func() {
		if text, err := s.Call(ctx, remote.URL(), "mark", `{"tag":"a","ms":60000}`); err != nil || text != "a 1" {
			t.Errorf("mark: got %q, %v; want a 1", text, err)
		}
	})
	if _, err := poll.Until(ctx, 5*time.Second, func(ctx context.Context) error {
		r, err := remote.Summary(ctx)
		if err == nil && r.Running == 0 {
			err = fmt.Errorf("no call is under way")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Do(ctx, "POST", remote.URL(), []byte(`{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}`)); err != nil {
		t.Fatal(err)
	}
	calls.Wait()
	for _, e := range report(t, remote).Entries {
		if e.Method == "notifications/cancelled" && string(e.Cancels) != "2" {
			t.Errorf("the notification is written down as about %q, want 2", e.Cancels)
		}
	}
}
