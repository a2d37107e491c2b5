package session

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/mcp"
)

const (
	// wayBack is how long a client that is gone may take to come back before the
	// upstream is told that its request to the client fails.
	wayBack = 10 * time.Second
	// refusalTime bounds the telling.
	refusalTime = 5 * time.Second
	// maxAsked bounds the requests of an upstream that wait for the client. What
	// goes beyond it is passed on, and left to the upstream's own timeout.
	maxAsked = 256
)

// ask notes that the upstream asks the client something, on a call's stream or, if
// on is nil, on the GET stream.
func (s *Session) ask(id []byte, on *exchange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked == nil {
		s.asked = make(map[string]*exchange)
	}
	if len(s.asked) < maxAsked {
		s.asked[string(id)] = on
	}
	if s.wayLostLocked(on) {
		s.refuseLaterLocked(on)
	}
}

// noted notes what of a client's message, which has no requests, concerns what is
// in flight: answers to the upstream, and calls that are cancelled.
func (s *Session) noted(body []byte) {
	cancels := bytes.Contains(body, cancelledMethod)
	s.mu.Lock()
	waiting := len(s.asked)
	s.mu.Unlock()
	if waiting == 0 && !cancels {
		return
	}
	e, err := mcp.Parse(body, mcp.Limits{})
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range e.Messages() {
		switch {
		case m.Kind == mcp.KindResponse:
			delete(s.asked, string(m.ID))
		case m.Method == mcp.MethodCancelled:
			if id, ok := mcp.Lookup(m.Params, "requestId"); ok {
				s.cancelledLocked(id)
			}
		}
	}
}

var cancelledMethod = []byte(mcp.MethodCancelled)

// cancelledLocked notes that the client does not want an answer any more: the
// upstream need not give one.
func (s *Session) cancelledLocked(id []byte) {
	wanted := exchange{ids: [][]byte{id}}
	for x := s.exchanges.next; x != nil && x != &s.exchanges; x = x.next {
		if x.shares(&wanted) {
			x.cancelled.Store(true)
		}
	}
}

// forgetLocked forgets what was asked on a call that is over.
func (s *Session) forgetLocked(x *exchange) {
	for id, on := range s.asked {
		if on == x {
			delete(s.asked, id)
		}
	}
}

// wayLostLocked reports whether there is no client on a stream.
func (s *Session) wayLostLocked(on *exchange) bool {
	if on == nil {
		return s.standing == nil || s.standing.deserted()
	}
	return on.away && on.readers == 0
}

// refuseLaterLocked sees to it that the upstream does not wait for ever for a
// client that is gone from a stream.
func (s *Session) refuseLaterLocked(on *exchange) {
	for _, other := range s.asked {
		if other == on {
			wait := wayBack
			if on != nil && !on.named.Load() {
				wait = 0 // it has nothing to come back by
			}
			time.AfterFunc(wait, func() { s.refuseAsked(on) })
			return
		}
	}
}

// refuseAsked answers in the client's place what the upstream asked on a stream
// that has no client still.
func (s *Session) refuseAsked(on *exchange) {
	s.mu.Lock()
	var ids []string
	if s.wayLostLocked(on) && !s.closing && !s.dropped && !s.movingLocked() { // while it moves, its next owner does it
		for id, other := range s.asked {
			if other == on {
				ids = append(ids, id)
				delete(s.asked, id)
			}
		}
	}
	s.mu.Unlock()
	if len(ids) > 0 {
		_ = s.act(func(ctx context.Context) {
			for _, id := range ids {
				s.refuseOne(ctx, id)
			}
		})
	}
}

func (s *Session) refuseOne(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, refusalTime)
	defer cancel()
	body := mcp.AppendError(nil, &mcp.Error{Code: mcp.CodeClientGone, ID: []byte(id),
		Message: "the client's connection broke, and it did not come back to be asked"})
	if err := s.tell(ctx, body); err != nil {
		s.table.cfg.Logger.Warn("upstream not told that its client is gone", "gateway", s.gateway, "upstream", s.upstream().Name, "error", err)
	}
}

// tell sends the upstream a message of our own that needs no answer.
func (s *Session) tell(ctx context.Context, body []byte) error {
	up := s.up.Load()
	return s.table.tell(ctx, up.of, up, body, under{s, up})
}

func (t *Table) tell(ctx context.Context, u *config.Upstream, up *upstreamSession, body []byte, gate Gate) error {
	answer, err := t.cfg.Upstream.Do(ctx, &Dispatch{Upstream: u, Method: http.MethodPost, Header: up.header(), Body: body, Address: up.address, Own: true, Gate: gate})
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode >= 300 {
		return fmt.Errorf("upstream answered HTTP %d", answer.StatusCode)
	}
	return nil
}

// header is the header of a POST of our own.
func (up *upstreamSession) header() http.Header {
	h := http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}, "User-Agent": userAgent}
	if up.id != "" {
		h[mcp.HeaderSessionID] = []string{up.id}
	}
	if up.version != "" {
		h[mcp.HeaderProtocolVersion] = []string{up.version}
	}
	return h
}
