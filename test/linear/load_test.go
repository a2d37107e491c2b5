package linear

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/ledger"
)

// session is a client session, as its client knows it.
type session struct {
	id  string
	key string // gateway/digest
	// opened is the JSON-RPC id of initialize.
	opened string
	header http.Header

	mu          sync.Mutex // guards all below
	sent        map[string]int64
	initialized int64 // when its notification was sent; 0 if not
	deleted     int64 // when DELETE was sent first; 0 if not
	over        bool  // its client has been told that it is over
}

// open opens a session at a worker.
func (w *world) open(ctx context.Context, at *worker) (*session, error) {
	id := w.requestID()
	body := strings.Replace(string(client.Initialize(1)), `"id":1`, `"id":`+id, 1)
	resp, err := client.Do(ctx, http.MethodPost, at.url(), nil, []byte(body))
	if err != nil {
		return nil, err
	}
	s := &session{id: resp.Header.Get("Mcp-Session-Id"), opened: id, sent: map[string]int64{}}
	if resp.Status != http.StatusOK || s.id == "" {
		return nil, &client.StatusError{Response: resp}
	}
	s.key = gateway + strings.TrimPrefix(cluster.SessionName(gateway, s.id), "gateways/"+gateway+"/sessions")
	s.header = http.Header{"Mcp-Session-Id": {s.id}, "Mcp-Protocol-Version": {client.Version}}
	s.initialized = w.now()
	w.mu.Lock()
	w.sessions = append(w.sessions, s)
	w.mu.Unlock()
	_, err = client.Do(ctx, http.MethodPost, at.url(), s.header, []byte(`{"jsonrpc":"2.0","method":"notifications/initialized"}`))
	return s, err
}

// requestID returns a JSON-RPC id that no other request has.
func (w *world) requestID() string { return fmt.Sprintf(`"r%d"`, w.next.Add(1)) }

// call calls a tool at a worker.
func (w *world) call(ctx context.Context, s *session, at *worker, tool, arguments string) (client.Response, error) {
	return w.request(ctx, s, at, fmt.Sprintf(`"method":"tools/call","params":{"name":%q,"arguments":%s}`, tool, arguments))
}

// request sends a request at a worker.
func (w *world) request(ctx context.Context, s *session, at *worker, what string) (client.Response, error) {
	return w.requestAs(ctx, w.requestID(), s, at, what)
}

// requestAs sends a request that has an id already.
func (w *world) requestAs(ctx context.Context, id string, s *session, at *worker, what string) (client.Response, error) {
	s.mu.Lock()
	s.sent[id] = w.now()
	s.mu.Unlock()
	return client.Do(ctx, http.MethodPost, at.url(), s.header, []byte(`{"jsonrpc":"2.0","id":`+id+`,`+what+`}`))
}

// delete ends a session at a worker.
func (w *world) delete(ctx context.Context, s *session, at *worker) (client.Response, error) {
	s.mu.Lock()
	if s.deleted == 0 {
		s.deleted = w.now()
	}
	s.mu.Unlock()
	return client.Do(ctx, http.MethodDelete, at.url(), s.header, nil)
}

// sentAt returns when the client sent what the upstream saw.
func (s *session) sentAt(e ledger.Entry) (int64, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case e.HTTP == http.MethodDelete:
		return s.deleted, s.deleted != 0
	case len(e.ID) == 0:
		return s.initialized, true
	}
	at, ok := s.sent[string(e.ID)]
	return at, ok
}

// byUpstream returns the sessions by the upstream session that each has.
func (w *world) byUpstream(entries []ledger.Entry) map[string]*session {
	opened := map[string]*session{}
	for _, s := range w.known() {
		opened[s.opened] = s
	}
	all := map[string]*session{}
	for _, e := range entries {
		if e.Method == "initialize" && opened[string(e.ID)] != nil {
			all[e.Session] = opened[string(e.ID)]
		}
	}
	return all
}

func (w *world) known() []*session {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]*session(nil), w.sessions...)
}

// load is clients that use sessions at whatever worker, whether it can answer or
// not.
type load struct {
	world    *world
	inFlight atomic.Int64
	answered atomic.Int64
	failed   atomic.Int64

	owners *owners

	mu    sync.Mutex               // guards all below
	quiet map[string]chan struct{} // processes whose sessions nobody uses, until closed
	lost  []*session               // those of which a client was told that they are over, which it had not ended
}

// rest keeps clients from using the sessions of a worker, until the returned
// function is called.
func (l *load) rest(at *worker) (goOn func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := make(chan struct{})
	l.quiet[at.name] = c
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.quiet, at.name)
		close(c)
	}
}

// rested waits while the session's owner is to be left alone.
func (l *load) rested(ctx context.Context, s *session) error {
	owner, _ := l.owners.of(s.key)
	l.mu.Lock()
	c := l.quiet[owner.process]
	l.mu.Unlock()
	return await(ctx, c)
}

// run lets n clients work until ctx ends.
func (l *load) run(ctx context.Context, n int, seed uint64) {
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(i)))
			for ctx.Err() == nil {
				l.session(ctx, random)
			}
		})
	}
	group.Wait()
}

// session is one session's life.
func (l *load) session(ctx context.Context, random *rand.Rand) {
	var s *session
	l.do(random, func(ctx context.Context, at *worker) (err error) {
		s, err = l.world.open(ctx, at)
		return err
	})
	if s == nil {
		pause(ctx, time.Duration(50+random.IntN(200))*time.Millisecond)
		return
	}
	for range 5 + random.IntN(20) {
		if pause(ctx, time.Duration(random.IntN(1200))*time.Millisecond) != nil || s.isOver() || l.rested(ctx, s) != nil {
			return
		}
		l.call(s, random)
	}
	if random.IntN(10) < 7 {
		l.do(random, func(ctx context.Context, at *worker) error {
			_, err := l.world.delete(ctx, s, at)
			return err
		})
	}
}

// call makes one call of a session.
func (l *load) call(s *session, random *rand.Rand) {
	l.do(random, func(ctx context.Context, at *worker) error {
		var resp client.Response
		var err error
		switch roll := random.IntN(10); {
		case roll < 6:
			resp, err = l.world.call(ctx, s, at, "counter_increment", "{}")
		case roll < 9:
			resp, err = l.world.call(ctx, s, at, "slow", fmt.Sprintf(`{"ms":%d}`, 50+random.IntN(400)))
		default:
			resp, err = l.world.request(ctx, s, at, `"method":"tools/list"`)
		}
		if err == nil && resp.Status == http.StatusNotFound {
			s.told()
			l.mu.Lock()
			defer l.mu.Unlock()
			l.lost = append(l.lost, s)
		}
		if err == nil && resp.Status != http.StatusOK {
			err = &client.StatusError{Response: resp}
		}
		return err
	})
}

func (s *session) told() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
}

func (s *session) isOver() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}

// do sends something to some worker, for as long as a client has patience.
func (l *load) do(random *rand.Rand, what func(context.Context, *worker) error) {
	patience := time.Duration(2000+random.IntN(7000)) * time.Millisecond
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	l.inFlight.Add(1)
	defer l.inFlight.Add(-1)
	if what(ctx, l.world.workers[random.IntN(len(l.world.workers))]) != nil {
		l.failed.Add(1)
		return
	}
	l.answered.Add(1)
}

// errOver says that the time for something is over.
var errOver = errors.New("over")

// pause lets time pass: here it is what is tested.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return errOver
	case <-timer.C:
		return nil
	}
}
