package main

import (
	"context"
	"fmt"
	"time"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/poll"
)

// The rows of what gateways of several upstreams cost.
const (
	pathOne  = "one"  // calls through a gateway of one upstream
	pathTen  = "ten"  // of ten
	pathList = "list" // lists of the tools of all ten
	pathFive = "five" // idle sessions at a gateway of five
)

// severalOf is the gateway of so many upstreams.
func severalOf(n int) string { return fmt.Sprintf("%s-%d", gateway, n) }

// mergedSection measures calls through a gateway of ten upstreams beside those through
// one of a single one, lists of everything that ten upstreams have, and what idle
// sessions hold that have five.
func (b *bench) mergedSection(ctx context.Context) error {
	w := b.world
	for _, n := range []int{5, 10} {
		if err := w.applySeveral(ctx, n); err != nil {
			return err
		}
	}
	at := w.cluster.Workers[0].URL(severalOf(10))
	for _, path := range []string{pathOne, pathTen, pathList} {
		w.gateways[path] = w.gateways[pathOwner]
	}
	w.callers[pathOne] = w.callers[pathOwner]
	for i := range goalClients {
		for _, path := range []string{pathTen, pathList} {
			c, err := newCaller(ctx, at, at)
			if err != nil {
				return err
			}
			w.callers[path] = append(w.callers[path], c)
			if path == pathTen {
				// All upstreams are called.
				c.use(fmt.Sprintf("u%d_%s", i%10, toolEcho))
			} else {
				c.list(10 * len(tools))
			}
		}
	}
	measure := func(_ context.Context, path string, n int) (values, error) {
		callers := w.callers[path][:n]
		if path == pathOne {
			callers = b.callers(path, n, toolEcho)
		}
		return closed(b, sectionMerged, path, callers, b.duration)
	}
	// What is compared is measured side by side.
	for _, paths := range [][]string{{pathOne, pathTen}, {pathList}} {
		if err := b.rounds(ctx, sectionMerged, paths, []int{goalClients}, measure); err != nil {
			return err
		}
	}
	one, ten := b.result.find(sectionMerged, pathOne, goalClients), b.result.find(sectionMerged, pathTen, goalClients)
	for i, v := range ten.Rounds {
		v[figureTimes] = v[figureCPU] / one.Rounds[i][figureCPU]
	}
	// A fifth of the sessions have as many upstream sessions as all of the idle section.
	n := max(1, b.idle/5)
	v, err := b.idleSessions(ctx, idlers{severalOf(5), "u0_" + toolEcho, n, (*churner).openAndList})
	if err != nil {
		return err
	}
	row := b.result.row(sectionMerged, pathFive, n)
	row.Rounds = append(row.Rounds, v)
	return nil
}

// applySeveral makes a gateway of n upstreams, all of which are the fast one, and
// returns when all workers serve it.
func (w *world) applySeveral(ctx context.Context, n int) error {
	conn, err := w.cluster.Dial(w.cluster.Control[0].Address, cluster.Operator)
	if err != nil {
		return err
	}
	defer conn.Close()
	g := &leaseholdv1.Gateway{}
	for i := range n {
		g.Upstreams = append(g.Upstreams, &leaseholdv1.Upstream{Name: fmt.Sprintf("u%d", i), Url: w.opens[pathDirect]})
	}
	_, err = leaseholdv1.NewGatewayServiceClient(conn).CreateGateway(ctx, &leaseholdv1.CreateGatewayRequest{GatewayId: severalOf(n), Gateway: g})
	if err != nil {
		return err
	}
	_, err = poll.Until(ctx, 10*time.Second, func(ctx context.Context) error { return w.cluster.Applied(ctx, severalOf(n)) })
	return err
}

// list makes a list of tools, of so many bytes at least, what the caller asks for.
func (c *caller) list(least int) {
	c.request, c.least = newRequest(c.to, c.id, "tools/list", "{}"), least
}

// openAndList opens a session as a client does that then asks for the tools, and leaves
// it alone.
func (c *churner) openAndList() error {
	if err := c.initialize(); err != nil {
		return err
	}
	session := string(c.session)
	if err := c.initialized(session); err != nil {
		return err
	}
	list := newRequest(c.to, session, "tools/list", "{}")
	if err := c.exchange(list.bytes); err != nil {
		return fmt.Errorf("tools/list: %w", err)
	}
	return c.checkAnswer(list)
}
