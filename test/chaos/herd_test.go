package chaos

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

const (
	// abreast is how many of their clients wait for an answer at the same time. The
	// race detector, under which the clients run, bears 8,128 goroutines; each
	// client takes three.
	abreast = 2000
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

	crew.target(w.Others(victim)...)
	probe := w.probeEtcd()
	killed := kill(victim)
	if errs := side(*herd, min(*herd, abreast), func(i int) error {
		if c := crew.members[i].do(t.Context(), order{}); c.outcome != answered {
			return fmt.Errorf("%v", c)
		}
		return nil
	}); len(errs) > 0 {
		t.Errorf("%d of %d orphans were not served, among them %v", len(errs), *herd, errs[0])
	}
	all := time.Since(killed.end)
	etcd := probe()

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
			if err := putEtcd(w.t.Context(), w.EtcdURL(n%len(w.Etcd))); err != nil {
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
func putEtcd(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v3/kv/put", strings.NewReader(`{"key":"cHJvYmU=","value":"eA=="}`))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
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
