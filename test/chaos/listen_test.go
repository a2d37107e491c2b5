package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"syscall"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

// usualRetry is how long a listener waits before it opens another stream, unless it
// is told otherwise.
const usualRetry = 200 * time.Millisecond

// attend has some members listen to their sessions' GET streams while the crew works.
func (c *crew) attend(members []*member) {
	ctx, cancel := context.WithCancel(c.t.Context())
	c.hush = cancel
	for _, m := range members {
		c.ears.Go(func() { m.listen(ctx) })
	}
}

// listening waits until the upstream has as many GET streams.
func (w *world) listening(n int) {
	w.t.Helper()
	w.eventually(10*time.Second, func(ctx context.Context) error {
		r, err := w.ledger.Summary(ctx)
		if err == nil && r.Streams != n {
			err = fmt.Errorf("%d streams are open, want %d", r.Streams, n)
		}
		return err
	})
}

// errAskedBack says that a stream ended with a hint when to open it again.
var errAskedBack = errors.New("asked to come back")

// listen opens the GET stream of a member again and again, each time after the last
// event that it was told, and keeps what it is told.
func (m *member) listen(ctx context.Context) {
	for ctx.Err() == nil {
		began := time.Now()
		front, err := m.hearAnywhere(ctx)
		if ctx.Err() != nil {
			return
		}
		m.crew.mu.Lock()
		if err == errAskedBack {
			m.crew.moved++
		} else {
			m.crew.breaks = append(m.crew.breaks, fmt.Sprintf("%d at %s from %v to %v: %v", m.number, front.Name,
				began.Sub(m.crew.started).Round(time.Millisecond), time.Since(m.crew.started).Round(time.Millisecond), err))
		}
		m.crew.mu.Unlock()
		pause := time.NewTimer(m.retry)
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
}

// hearAnywhere reads one stream to its end, at the first worker that does not refuse
// the connection.
func (m *member) hearAnywhere(ctx context.Context) (front *cluster.Worker, err error) {
	for _, front = range m.fronts(nil) {
		if err = m.hear(ctx, front); !errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
	}
	return front, err
}

// hear reads one stream to its end.
func (m *member) hear(ctx context.Context, front *cluster.Worker) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, front.URL(m.crew.gateway), nil)
	if err != nil {
		return err
	}
	req.Header = m.session.Header()
	req.Header.Set("Accept", "text/event-stream")
	if m.lastID != "" {
		req.Header.Set("Last-Event-ID", m.lastID)
	}
	resp, err := m.crew.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 300))
		return fmt.Errorf("status %d: %s", resp.StatusCode, text)
	}
	asked := false
	err = eachEvent(resp.Body, func(e event) {
		if asked = e.retry > 0; asked {
			m.retry = e.retry
		}
		if e.id != nil {
			m.lastID = *e.id
		}
		if len(e.data) > 0 {
			m.hearOf(e.data)
		}
	})
	if err == io.EOF && asked {
		return errAskedBack
	}
	return err
}

// hearOf keeps what an event says.
func (m *member) hearOf(data []byte) {
	var message struct {
		Params struct {
			Data string `json:"data"`
		} `json:"params"`
	}
	if err := json.Unmarshal(data, &message); err != nil {
		message.Params.Data = string(data)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard[message.Params.Data]++
}

// told waits until members have been told of all calls of theirs that were announced
// and answered. The book then says whether that was once.
func (w *world) told(c *crew, members []*member) {
	w.t.Helper()
	w.eventually(10*time.Second, func(context.Context) error {
		for _, call := range c.made() {
			m := call.member
			m.mu.Lock()
			missing := call.announce && call.outcome == answered && m.heard[call.tag] == 0
			m.mu.Unlock()
			if missing && slices.Contains(members, m) {
				return fmt.Errorf("%v: its listener was not told", call)
			}
		}
		return nil
	})
}
