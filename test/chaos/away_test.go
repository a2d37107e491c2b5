package chaos

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/cluster"
)

func TestCallGoesOnWithoutItsClientWhichFetchesTheAnswerElsewhere(t *testing.T) {
	const leaving, kept = 60, 256
	w := start(t, small)
	w.serve("away", w.ledger.URL(), "", "")
	crew := enlist(t, "away", w.Workers, 2*leaving)
	w.locate(crew)
	crew.work(crew.members[leaving:], pace)

	// They hear the first event and are gone; the rest comes while nobody listens,
	// or while they are back.
	calls := make([]*call, leaving)
	errs := side(leaving, leaving, func(i int) (err error) {
		what := order{ms: 2000, steps: 4}
		if i%3 == 0 {
			what = order{ms: 1000, steps: kept + 50}
		}
		at := i / 2 % 2
		calls[i], err = crew.members[i].comeBack(w, what, w.Workers[at], w.Workers[1-at], i%2 == 0 || i%3 == 0)
		return err
	})
	for _, err := range errs {
		t.Errorf("a client that left and came back: %v", err)
	}
	crew.rest()
	w.expect(crew.made(), func(c *call) bool { return c.steps > kept })
	w.want("with more events meanwhile than are kept", only(calls, func(c *call) bool { return c.steps > kept }), unknown)
	w.want("with few events meanwhile", only(calls, func(c *call) bool { return c.steps <= kept }), answered)
	w.audit(crew, book{}) // each was carried out once
	w.leave(crew, nil)
}

// comeBack makes a call whose client leaves after the first event, and comes back
// at another worker: at once, or when the upstream has carried the call out.
func (m *member) comeBack(w *world, o order, at, other *cluster.Worker, late bool) (*call, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	o.id = m.seq.Add(1)
	c := &call{order: o, member: m, tag: fmt.Sprintf("%s:%d.%d", m.crew.name, m.number, o.id), begin: time.Now(), front: other}
	c.outcome = broken
	defer func() {
		c.end = time.Now()
		m.crew.mu.Lock()
		defer m.crew.mu.Unlock()
		m.crew.calls = append(m.crew.calls, c)
	}()
	resp, err := client.Stream(ctx, http.MethodPost, at.URL(m.crew.gateway), m.session.Header(), []byte(c.body()))
	if err != nil {
		return c, err
	}
	id, err := firstID(resp)
	resp.Body.Close() // before its end: the connection is closed
	if err != nil {
		return c, err
	}
	if late {
		w.let(time.Duration(o.ms)*time.Millisecond + grace)
	}
	header := m.session.Header()
	header.Set("Last-Event-ID", id)
	again, err := client.Do(ctx, http.MethodGet, other.URL(m.crew.gateway), header, nil)
	if err != nil {
		return c, err
	}
	a := answer{status: again.Status, header: again.Header}
	a.read(again.Body, fmt.Sprint(o.id))
	c.take(a)
	if c.outcome == answered && len(a.others) != o.steps-1 {
		return c, fmt.Errorf("%v: %d events came after the first, want %d", c, len(a.others), o.steps-1)
	}
	return c, nil
}

// firstID reads a stream up to the end of its first event with data, and returns
// that event's id.
func firstID(resp *http.Response) (string, error) {
	id, data := "", false
	for lines := bufio.NewReader(resp.Body); ; {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return "", fmt.Errorf("status %d, the stream ended before its first event: %w", resp.StatusCode, err)
		}
		line = bytes.TrimSpace(line)
		if value, ok := bytes.CutPrefix(line, []byte("id: ")); ok {
			id = string(value)
		}
		data = data || bytes.HasPrefix(line, []byte("data: {"))
		if len(line) == 0 && data {
			return id, nil
		}
	}
}
