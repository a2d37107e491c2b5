package chaos

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/volley"
)

const (
	// reconnects is the rate at which a worker may take sessions up again.
	reconnects = 1500
	// etcdLimit is how long a write to etcd may take meanwhile, in the 99th percentile.
	etcdLimit = 250 * time.Millisecond
)

func TestHerdOfOrphansIsServedInTime(t *testing.T) {
	p := usual
	p.workers, p.plain, p.blind = 4, true, true
	w := start(t, p)
	w.serve("herd", w.ledger.URL(), fmt.Sprintf("reconnects_per_second: %d", reconnects), "")
	victim := w.pick()
	begin := time.Now()
	crew := enlist(t, "herd", []*cluster.Worker{victim}, *herd)
	t.Logf("%d sessions were opened at %s in %v", *herd, victim.Name, time.Since(begin).Round(time.Millisecond))

	w.settle()
	crew.target(w.Others(victim)...)
	fire := crew.aim()
	probe := w.probeEtcd()
	killed := kill(victim)
	calls := fire()
	etcd := probe()
	w.want("after the kill", calls, answered)
	all := slices.MaxFunc(calls, func(a, b *call) int { return a.end.Compare(b.end) }).end.Sub(killed.end)

	t.Logf("all were served %v after the kill; etcd writes meanwhile: %d, p50 %v, p99 %v, max %v", all.Round(time.Millisecond),
		len(etcd), part(etcd, 0.5), part(etcd, 0.99), part(etcd, 1))
	if limit := w.plan.ttl + grace + 3*time.Second + w.late(); all > limit {
		t.Errorf("the last orphan was served %v after the kill, want at most %v", all, limit)
	}
	if got := part(etcd, 0.99); got > etcdLimit+w.late() {
		t.Errorf("writes to etcd took %v at the 99th percentile, want at most %v", got, etcdLimit)
	}
	w.checkRate(len(w.Others(victim)))
	w.audit(crew, book{})
	w.leave(crew, nil)
}

// aim prepares a call of each member, at any of the targets. The function that it
// returns has a process of its own make them all at the same time.
func (c *crew) aim() (fire func() []*call) {
	c.t.Helper()
	calls, requests := make([]*call, len(c.members)), make([]volley.Request, len(c.members))
	for i, m := range c.members {
		id := m.seq.Add(1)
		calls[i] = &call{order: order{id: id}, member: m, front: m.fronts(nil)[0], tag: fmt.Sprintf("%s:%d.%d", c.name, m.number, id)}
		header := map[string]string{"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
		for name, values := range m.session.Header() {
			header[name] = values[0]
		}
		requests[i] = volley.Request{URL: calls[i].front.URL(c.gateway), Header: header, Body: calls[i].body()}
	}
	v, err := volley.Load(c.t.Context(), requests, patience)
	if err != nil {
		c.t.Fatal(err)
	}
	return func() []*call {
		answers, err := v.Fire()
		if err != nil {
			c.t.Fatal(err)
		}
		for i, a := range answers {
			calls[i].receive(a)
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.calls = append(c.calls, calls...)
		return calls
	}
}

// receive keeps what became of a call that was made in a volley.
func (c *call) receive(v volley.Answer) {
	c.begin, c.end = v.Begin, v.End
	a := answer{status: v.Status, header: http.Header{}}
	for name, value := range v.Header {
		a.header.Set(name, value)
	}
	if v.Failure == "" || v.Body != "" {
		a.read([]byte(v.Body), fmt.Sprint(c.id))
	}
	if v.Failure != "" && a.outcome != answered && a.outcome != unknown {
		a.outcome, a.err = broken, errors.New(v.Failure)
	}
	c.take(a)
}

// checkRate checks that the upstream's sessions were not taken up faster than
// workers may. The upstream sees the first call of each when that happens.
func (w *world) checkRate(workers int) {
	w.t.Helper()
	r, err := w.ledger.Report(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	var times []time.Time
	for _, e := range r.Entries {
		if e.Tag != "" && e.Count == 1 {
			times = append(times, e.Time)
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	most, from := 0, 0
	for i, at := range times {
		for at.Sub(times[from]) > time.Second {
			from++
		}
		most = max(most, i-from+1)
	}
	// What a worker has saved up it may spend at once, and the clock that counts is
	// not the one that paces.
	limit := workers * reconnects * 6 / 5
	w.t.Logf("at most %d of %d sessions were taken up within a second; %d workers may %d each", most, len(times), workers, reconnects)
	if most > limit {
		w.t.Errorf("%d sessions were taken up within a second, want at most %d", most, limit)
	}
}

// probeEtcd writes a key to etcd again and again. The function that it returns
// stops that and returns how long each write took, sorted.
func (w *world) probeEtcd() (stop func() []time.Duration) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var group sync.WaitGroup
	var took []time.Duration
	group.Go(func() {
		ticker := time.NewTicker(10 * time.Millisecond)
		defer ticker.Stop()
		for n := 0; ctx.Err() == nil; n++ {
			begin := time.Now()
			if err := putEtcd(w.t.Context(), w.EtcdClient(), w.EtcdURL(n%len(w.Etcd))); err != nil {
				w.t.Error(err)
				return
			}
			took = append(took, time.Since(begin))
			select {
			case <-ctx.Done():
			case <-ticker.C:
			}
		}
	})
	return func() []time.Duration {
		cancel()
		group.Wait()
		slices.Sort(took)
		return took
	}
}

// putEtcd writes a key of ours through etcd's HTTP gateway.
func putEtcd(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v3/kv/put", strings.NewReader(`{"key":"cHJvYmU=","value":"eA=="}`))
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("write to etcd: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("write to etcd: %s", resp.Status)
	}
	return nil
}

// part is the p-th part of sorted durations.
func part(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))].Round(time.Millisecond)
}
