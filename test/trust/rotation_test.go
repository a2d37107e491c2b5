package trust

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/cluster"
)

// callers is how many clients call all the time.
const callers = 8

// load is calls that go on, of clients and of operators, and none may fail.
type load struct {
	t       *testing.T
	c       *cluster.Cluster
	files   sync.RWMutex // who reads an operator's certificate does not do so while it is replaced
	workers atomic.Pointer[[]*cluster.Worker]
	calls   atomic.Int64
	group   sync.WaitGroup
}

// callAt says which workers are called from now on.
func (l *load) callAt(workers []*cluster.Worker) {
	workers = slices.Clone(workers)
	l.workers.Store(&workers)
}

// call has one client call at all workers in turn until ctx ends.
func (l *load) call(ctx context.Context, s *client.Session) {
	for n := 1; ctx.Err() == nil; n++ {
		workers := *l.workers.Load()
		got, err := s.Increment(l.t.Context(), workers[n%len(workers)].URL("counter"))
		if err != nil || got != n {
			l.t.Errorf("call %d: got %d, %v", n, got, err)
			return
		}
		l.calls.Add(1)
	}
}

// operate has an operator ask over a new connection each time until ctx ends.
func (l *load) operate(ctx context.Context) {
	for ctx.Err() == nil {
		l.files.RLock()
		conn, err := l.c.Dial(l.c.Control[0].Address, cluster.Operator)
		l.files.RUnlock()
		if err != nil {
			l.t.Error(err)
			return
		}
		asked, cancel := context.WithTimeout(l.t.Context(), limit)
		_, err = leaseholdv1.NewWorkerServiceClient(conn).ListWorkers(asked, &leaseholdv1.ListWorkersRequest{})
		cancel()
		conn.Close()
		if err != nil {
			l.t.Errorf("an operator over a new connection: %v", err)
			return
		}
		l.calls.Add(1)
	}
}

func TestAuthorityAndCertificatesAreReplacedWithoutAFailedCall(t *testing.T) {
	c := cluster.Test(t, cluster.Config{Workers: 2, Race: true})
	c.Serve(t, "counter", "")
	l := &load{t: t, c: c}
	l.callAt(c.Workers)
	ctx, stop := context.WithCancel(t.Context())
	for i := range callers {
		s, err := client.Open(t.Context(), c.Workers[i%2].URL("counter"))
		if err != nil {
			t.Fatal(err)
		}
		l.group.Go(func() { l.call(ctx, s) })
	}
	l.group.Go(func() { l.operate(ctx) })
	defer l.group.Wait()
	defer stop()

	dir, next := c.CertsDir(), filepath.Join(t.TempDir(), "next")
	certs(t, c, "init", "--dir", next)
	first, second := read(t, filepath.Join(dir, "ca.crt")), read(t, filepath.Join(next, "ca.crt"))
	processes := []*cluster.Process{c.Control[0].Process, c.Workers[0].Process, c.Workers[1].Process}

	copyFile(t, filepath.Join(dir, "operator.crt"), filepath.Join(dir, "old.crt"))
	copyFile(t, filepath.Join(dir, "operator.key"), filepath.Join(dir, "old.key"))

	l.replace(filepath.Join(dir, "ca.crt"), slices.Concat(first, second))
	for _, p := range processes {
		logged(t, p, 1, "certificate authorities changed")
	}
	for _, one := range [][2]string{{"controlplane", "control0"}, {"worker", "worker0"}, {"worker", "worker1"}, {"operator", cluster.Operator}} {
		certs(t, c, "issue", "--dir", next, "--role", one[0], "--name", one[1], "--ip", "127.0.0.1")
		l.files.Lock()
		for _, file := range []string{one[1] + ".key", one[1] + ".crt"} {
			l.replace(filepath.Join(dir, file), read(t, filepath.Join(next, file)))
		}
		l.files.Unlock()
	}
	for _, p := range processes {
		logged(t, p, 1, "certificate changed")
	}
	l.replace(filepath.Join(dir, "ca.crt"), second)
	l.replace(filepath.Join(dir, "ca.key"), read(t, filepath.Join(next, "ca.key")))
	for _, p := range processes {
		logged(t, p, 2, "certificate authorities changed")
	}
	// A worker that knows nothing but the new authority is taken by all others, and
	// takes them: connections to and from it are new.
	if err := c.StartWorkers(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	l.callAt(c.Workers)
	through, err := client.Open(t.Context(), c.Workers[2].URL("counter"))
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range c.Workers {
		if got, err := through.Increment(t.Context(), w.URL("counter")); err != nil || got != i+1 {
			t.Errorf("a session of the new worker at %s: got %d, %v; want %d", w.Name, got, err, i+1)
		}
	}
	before, deadline := l.calls.Load(), time.Now().Add(limit)
	for l.calls.Load() < before+100 && !t.Failed() && time.Now().Before(deadline) {
		if err := c.Applied(t.Context(), "counter"); err != nil {
			t.Error(err)
		}
	}
	stop()
	l.group.Wait()
	t.Logf("%d calls", l.calls.Load())
	if code, out := get(t, c, c.Control[0].Address, filepath.Join(dir, "ca.crt"), dir, "old"); code != 1 || !strings.Contains(out, "unknown certificate authority") {
		t.Errorf("with a certificate of the first authority: got exit code %d and %q, want it refused", code, out)
	}
}

// replace replaces a file, as a whole.
func (l *load) replace(path string, data []byte) {
	l.t.Helper()
	err := os.WriteFile(path+".new", data, 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
