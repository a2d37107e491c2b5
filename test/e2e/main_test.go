// Package e2e tests Leasehold from the outside: built binaries as processes,
// real etcd, real gRPC, real MCP clients and servers. Each test takes a cluster,
// puts a gateway of its own in front of an upstream that keeps a ledger, and
// afterwards compares what the clients saw with what the upstream saw.
//
// The tests need Linux (they map connections to processes by /proc), Node.js
// and npm.
package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/ledger"
	"github.com/leasehold/leasehold/test/internal/poll"
)

// The members that a full cluster has.
const (
	etcdMembers   = 3
	controlPlanes = 2
	workers       = 3
)

// ttl is the lease of a worker.
const ttl = 6 * time.Second

// full is a cluster with everything in it, with the race detector.
var full = cluster.Config{EtcdMembers: etcdMembers, ControlPlanes: controlPlanes, Workers: workers, Race: true}

// small is a cluster with embedded etcd.
var small = cluster.Config{Workers: workers, Race: true}

// common is the full cluster that the tests share which leave it as it was.
var common struct {
	once    sync.Once
	cluster *cluster.Cluster
	dir     string
	err     error
	faults  []string
}

func TestMain(m *testing.M) {
	code := m.Run()
	if common.cluster != nil {
		common.cluster.Close()
	}
	os.RemoveAll(common.dir)
	cluster.RemoveBinaries()
	os.Exit(code)
}

// shared returns the cluster that tests share.
func shared(t *testing.T) *cluster.Cluster {
	t.Helper()
	common.once.Do(func() {
		cfg := full
		if common.dir, common.err = os.MkdirTemp("", "leasehold-e2e-"); common.err != nil {
			return
		}
		cfg.Dir = common.dir
		start := time.Now()
		common.cluster, common.err = cluster.Start(context.Background(), cfg)
		t.Logf("%d etcd members, %d control planes and %d workers are ready after %v",
			etcdMembers, controlPlanes, workers, time.Since(start).Round(time.Millisecond))
	})
	if common.err != nil {
		t.Fatal(common.err)
	}
	t.Cleanup(func() {
		for _, fault := range common.cluster.Faults() {
			if !slices.Contains(common.faults, fault) {
				common.faults = append(common.faults, fault)
				t.Error(fault)
			}
		}
		if t.Failed() {
			t.Log(common.cluster.Logs())
		}
	})
	return common.cluster
}

// eventually waits for a state that another process brings about.
func eventually(t *testing.T, limit time.Duration, check func(context.Context) error) time.Duration {
	t.Helper()
	took, err := poll.Until(t.Context(), limit, check)
	if err != nil {
		t.Fatal(err)
	}
	return took
}

// upstreamHas waits until the upstream has that many live sessions.
func upstreamHas(t *testing.T, remote ledger.Remote, want int, limit time.Duration) time.Duration {
	t.Helper()
	return eventually(t, limit, func(ctx context.Context) error {
		r, err := remote.Summary(ctx)
		if err == nil && len(r.Live) != want {
			err = fmt.Errorf("the upstream has %d live sessions, want %d", len(r.Live), want)
		}
		return err
	})
}

// report reads the ledger.
func report(t *testing.T, remote ledger.Remote) ledger.Report {
	t.Helper()
	r, err := remote.Report(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// open opens a session at a worker.
func open(t *testing.T, w *cluster.Worker, gateway string) *client.Session {
	t.Helper()
	s, err := client.Open(t.Context(), w.URL(gateway))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// increment counts and checks the counter.
func increment(t *testing.T, s *client.Session, w *cluster.Worker, gateway string, want int) {
	t.Helper()
	if got, err := s.Increment(t.Context(), w.URL(gateway)); err != nil || got != want {
		t.Fatalf("increment at %s: got %d, %v; want %d", w.Name, got, err, want)
	}
}

// refusedAsOver checks that every worker that runs says of a session that it
// does not exist: 404, -32001, and the id of the request.
func refusedAsOver(t *testing.T, c *cluster.Cluster, s *client.Session, gateway string) {
	t.Helper()
	for i, w := range c.Live() {
		id := fmt.Sprintf(`"late-%d"`, i)
		resp, err := s.Do(t.Context(), "POST", w.URL(gateway), fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"method":"ping"}`, id))
		if err != nil {
			t.Errorf("request at %s: %v", w.Name, err)
			continue
		}
		wantError(t, "request at "+w.Name, resp, 404, -32001, id)
	}
}

// wantError checks an answer that is an error; it returns the error for further
// checks.
func wantError(t *testing.T, what string, resp client.Response, status, code int, id string) *client.RPCError {
	t.Helper()
	envelope, err := resp.Envelope()
	switch {
	case resp.Status != status:
		t.Errorf("%s: status %d, want %d; body %.300q", what, resp.Status, status, resp.Body)
	case err != nil:
		t.Errorf("%s: %v", what, err)
	case envelope.Error == nil || envelope.Error.Code != code:
		t.Errorf("%s: body %.300q, want error %d", what, resp.Body, code)
	case string(envelope.ID) != id:
		t.Errorf("%s: id %s, want %s", what, envelope.ID, id)
	}
	if envelope.Error == nil {
		return &client.RPCError{}
	}
	return envelope.Error
}

// each calls f for every element, at most width at a time, and stops the test
// when one has failed.
func each[T any](t *testing.T, width int, elements []T, f func(i int, e T) error) {
	t.Helper()
	errs := make([]error, len(elements))
	slots := make(chan struct{}, width)
	var group sync.WaitGroup
	for i, e := range elements {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			errs[i] = f(i, e)
		})
	}
	group.Wait()
	var failed []string
	for i, err := range errs {
		if err != nil {
			failed = append(failed, fmt.Sprintf("%d: %v", i, err))
		}
	}
	if len(failed) > 0 {
		t.Fatalf("%d of %d failed, among them\n%s", len(failed), len(elements), strings.Join(failed[:min(5, len(failed))], "\n"))
	}
}
