package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/ledger"
	"github.com/leasehold/leasehold/test/internal/poll"
)

const (
	// gapGateway is the gateway of sessions whose clients listen.
	gapGateway = "listen"
	// gapListeners is how many of them there are.
	gapListeners = 100
)

// gaps is an upstream whose GET streams have no event ids. It measures for how long none
// is open of a session that has had one: what the server says then is lost.
type gaps struct {
	next http.Handler

	mu     sync.Mutex
	open   map[string]int
	ended  map[string]time.Time
	lasted []time.Duration
}

func (g *gaps) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet {
		g.next.ServeHTTP(w, r)
		return
	}
	id := r.Header.Get("Mcp-Session-Id")
	g.mu.Lock()
	if last, ok := g.ended[id]; ok {
		g.lasted = append(g.lasted, time.Since(last))
		delete(g.ended, id)
	}
	g.open[id]++
	g.mu.Unlock()
	g.next.ServeHTTP(w, r)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open[id]--; g.open[id] == 0 {
		g.ended[id] = time.Now()
	}
}

// take returns the gaps since it was called before.
func (g *gaps) take() []time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	lasted := g.lasted
	g.lasted = nil
	return lasted
}

// all returns an error unless every listener's session has a stream.
func (g *gaps) all(context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.open)-len(g.ended) < gapListeners {
		return errors.New("not every session has a stream")
	}
	return nil
}

// listenInGaps opens sessions at an upstream without event ids, and listens to their GET
// streams until ctx ends. stop waits for that.
func (f *fleet) listenInGaps(ctx context.Context) (g *gaps, stop func(), err error) {
	server := ledger.New().Server()
	g = &gaps{next: server.Handler, open: make(map[string]int), ended: make(map[string]time.Time)}
	server.Handler = g
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	go server.Serve(listener)
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	stop = func() {
		cancel()
		server.Close()
		group.Wait()
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	if err := f.cluster.Apply(ctx, gapGateway, "http://"+listener.Addr().String()+ledger.Path, ""); err != nil {
		return nil, nil, err
	}
	if _, err := poll.Until(ctx, 10*time.Second, func(ctx context.Context) error { return f.cluster.Applied(ctx, gapGateway) }); err != nil {
		return nil, nil, err
	}
	for range gapListeners {
		s, err := client.Open(ctx, f.pick().URL(gapGateway))
		if err != nil {
			return nil, nil, err
		}
		group.Go(func() {
			for ctx.Err() == nil {
				f.listen(ctx, s)
			}
		})
	}
	_, err = poll.Until(ctx, 10*time.Second, g.all)
	return g, stop, err
}

// listen reads a GET stream to its end, and waits until it may be opened again.
func (f *fleet) listen(ctx context.Context, s *client.Session) {
	resp, err := client.Stream(ctx, http.MethodGet, f.pick().URL(gapGateway), s.Header(), nil)
	if err == nil {
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	sleep(ctx, 100*time.Millisecond)
}
