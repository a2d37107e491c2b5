package merge

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"

	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

// batch serves a batch: each message as if it came alone, the requests at the same
// time. Their answers come on one stream.
func (m *merged) batch(ctx context.Context, d *session.Dispatch, envelope *mcp.Envelope) (*http.Response, error) {
	var requests []*request
	bodies := elements(d.Body)
	for i := range envelope.Messages() {
		r := &request{d, &envelope.Messages()[i], bodies[i]}
		if r.message.Kind == mcp.KindRequest {
			requests = append(requests, r)
			continue
		}
		if _, err := m.one(ctx, r); err != nil {
			return nil, err
		}
	}
	if len(requests) == 0 {
		return accepted(), nil
	}
	if err := d.LetOut(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	out := newQueue(func() { cancel(errors.New("nobody reads the answers to the batch")) })
	var group sync.WaitGroup
	for _, r := range requests {
		group.Go(func() { m.answerInto(ctx, r, out) })
	}
	if !m.up.spawn(func() {
		group.Wait()
		out.end(io.EOF)
	}) {
		cancel(errEnded)
		out.end(errEnded)
	}
	return answerEvents(out), nil
}

func elements(body []byte) (all [][]byte) {
	for one := range mcp.Elements(body) {
		all = append(all, one)
	}
	return all
}

// answerInto serves a request of a batch, and adds what comes to out.
func (m *merged) answerInto(ctx context.Context, r *request, out *queue) {
	answer, err := m.one(ctx, r)
	if err != nil {
		out.end(err)
		return
	}
	defer answer.Body.Close()
	if !isEventStream(answer.Header) {
		if body, err := readBody(answer.Body, session.MaxResponse); err == nil && mcp.IsResponse(body) {
			out.push(func() []byte { return mcp.AppendEvent(nil, body) })
		}
		return
	}
	events := mcp.NewEventReader(answer.Body, session.MaxEvent)
	for {
		event, err := events.Next()
		if err != nil {
			return
		}
		raw := append([]byte(nil), event.Raw...)
		if !event.Partial && !out.push(func() []byte { return raw }) {
			return
		}
	}
}
