package session

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/semaphore"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/sessionid"
)

// mute is an upstream that takes requests and says nothing.
type mute struct{ Upstream }

// Do implements Upstream.
func (mute) Do(ctx context.Context, _ *Dispatch) (*http.Response, error) {
	<-ctx.Done()
	return nil, errors.New("no answer")
}

// connectable is a table with room for one session, and a gateway "g".
func connectable(t *testing.T) *Table {
	t.Helper()
	ring, err := sessionid.NewRing([]sessionid.Key{{ID: [4]byte{1}, Secret: sessionid.Secret{1}}})
	if err != nil {
		t.Fatal(err)
	}
	upstream := &config.Upstream{Name: "up", URL: &url.URL{Scheme: "http", Host: "up"}}
	world := &config.Snapshot{Ring: ring, Gateways: map[string]*config.Gateway{"g": {ID: "g", Upstream: upstream}}}
	authority := &wavering{}
	authority.holds.Store(true)
	table, err := NewTable(Config{Worker: "w", Max: 1, Logger: hclog.NewNullLogger(), Authority: authority, Records: &ledger{}, Upstream: mute{},
		World: func() *config.Snapshot { return world }})
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestALegacyClientWithoutASessionIsHeardOutForHalfAMinute(t *testing.T) {
	for name, c := range map[string]struct {
		says  string        // before its time is up
		after time.Duration // it began to wait
		want  time.Duration
	}{
		"silent":                       {want: initializeTime},
		"initialize fails in time":     {says: "initialize", after: time.Second, want: initializeTime},
		"initialize fails too late":    {says: "initialize", after: initializeTime - time.Second, want: initializeTime - time.Second + openBudget},
		"something before initialize":  {says: "tools/list", after: initializeTime - time.Second, want: initializeTime},
		"initialize that is not valid": {says: "initialize without params", after: initializeTime - time.Second, want: initializeTime},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				table, answer := connectable(t), httptest.NewRecorder()
				began, over := time.Now(), make(chan struct{})
				ctx, hangUp := context.WithTimeout(t.Context(), 2*initializeTime)
				defer hangUp()
				go func() {
					defer close(over)
					table.Connect(ctx, answer, &Request{Gateway: "g", Principal: "p"})
				}()
				synctest.Wait()
				if table.Reserve(sessionid.Digest{9}) == nil {
					t.Error("a client that is connected has no place")
				}
				if c.says != "" {
					<-time.After(c.after)
					said(t, table, c.says)
				}
				<-over
				if took := time.Since(began); took != c.want {
					t.Errorf("the stream ended after %v, want %v", took, c.want)
				}
				if err := table.Reserve(sessionid.Digest{9}); err != nil {
					t.Errorf("its place afterwards: %v", err)
				}
				if !strings.HasPrefix(answer.Body.String(), "event: endpoint\ndata: /gateways/g/messages?sessionId=lh1.") {
					t.Errorf("stream: got %q", answer.Body.String())
				}
				table.pumps.Wait()
			})
		})
	}
}

// said has the one client that is connected say something.
func said(t *testing.T, table *Table, what string) {
	t.Helper()
	method, ok := strings.CutSuffix(what, " without params")
	params := `,"params":{"protocolVersion":"2024-11-05","capabilities":{},"clientInfo":{"name":"n","version":"1"}}`
	if ok {
		params = ""
	}
	r := &Request{Gateway: "g", Header: http.Header{}, IDs: [][]byte{[]byte("1")}, Body: []byte(`{"jsonrpc":"2.0","id":1,"method":"` + method + `"` + params + `}`)}
	var c *Connection
	table.clients.mu.Lock()
	for _, c = range table.clients.of {
	}
	table.clients.mu.Unlock()
	if err := c.Serve(t.Context(), httptest.NewRecorder(), r); err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

func TestLongAnswersOfALegacyClientThatDoesNotReadAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, hangUp := context.WithCancel(t.Context())
		c := &Connection{ctx: ctx, held: semaphore.NewWeighted(MaxResponse)}
		begin := func() *letter {
			l := c.letter(&Request{Method: http.MethodPost, IDs: [][]byte{[]byte("1")}})
			l.header.Set("Content-Length", strconv.Itoa(MaxResponse/2))
			return l
		}
		first, second, third := begin(), begin(), begin()
		for _, l := range []*letter{first, second} {
			if _, err := l.Write([]byte("{")); err != nil {
				t.Fatal(err)
			}
		}
		took := make(chan error, 1)
		go func() {
			_, err := third.Write([]byte("{"))
			took <- err
		}()
		synctest.Wait()
		select {
		case <-took:
			t.Error("a third of two halves was taken")
		default:
		}
		first.release()
		if err := <-took; err != nil {
			t.Errorf("once there is room: %v", err)
		}
		fourth := begin()
		go func() {
			_, err := fourth.Write([]byte("{"))
			took <- err
		}()
		synctest.Wait()
		hangUp()
		if err := <-took; err == nil {
			t.Error("the client is gone: want an error")
		}
	})
}
