package etcd

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
)

// When etcd goes away under load, calls fail as unavailable in bounded time, and
// work again by themselves when it is back; a claim that was granted is there.
func TestOutageUnderLoad(t *testing.T) {
	cfg := ServerConfig{Dir: filepath.Join(t.TempDir(), "etcd"), ClientURL: freeURL(t)}
	server, err := StartServer(testContext(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := openStore(t, server, nil)
	w := register(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()

	var granted, refused atomic.Int64
	var keys sync.Map
	stop := make(chan struct{})
	var group sync.WaitGroup
	for range 32 {
		group.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				key := newSession()
				began := time.Now()
				_, err := s.Claim(ctx, key, w.record())
				switch {
				case err == nil:
					granted.Add(1)
					keys.Store(key, true)
				case errors.Is(err, store.ErrUnavailable):
					refused.Add(1)
				default:
					t.Errorf("claim: %v, want ErrUnavailable", err)
				}
				if took := time.Since(began); took > 9*time.Second {
					t.Errorf("claim took %s", took)
				}
			}
		})
	}
	waitFor(t, func() bool { return granted.Load() > 200 })
	server.Close()
	waitFor(t, func() bool { return refused.Load() > 64 })
	if server, err = StartServer(ctx, cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	before, back := granted.Load(), time.Now()
	waitFor(t, func() bool { return granted.Load() > before+200 })
	if took := time.Since(back); took > 10*time.Second {
		t.Errorf("claims work again %s after etcd", took)
	}
	close(stop)
	group.Wait()
	live := map[session.Key]bool{}
	for q := (session.Query{Size: 1000}); ; {
		page, last, more, err := s.ListSessions(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range page {
			key, _ := session.ParseName(one.Name)
			live[key] = true
		}
		if q.After = last; !more {
			break
		}
	}
	keys.Range(func(key, _ any) bool {
		if !live[key.(session.Key)] {
			t.Errorf("claim of %v was granted and is not there", key)
		}
		return true
	})
}

// What waits for a caller that is gone is not sent.
func TestAbandonedWritesAreNotSent(t *testing.T) {
	s := newStore(t)
	w, key := register(t, s), newSession()
	release := hold(t, s)
	ctx, cancel := context.WithCancel(testContext(t))
	result := make(chan error, 1)
	go func() {
		_, err := s.Claim(ctx, key, w.record())
		result <- err
	}()
	waitFor(t, func() bool { return len(s.writes.waiting) == 1 })
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("claim: %v, want context.Canceled", err)
	}
	release()
	w.claim(t, s, newSession()) // comes after it
	if exists(t, s, sessionKey(key)) {
		t.Error("a claim was sent that nobody waited for any more")
	}
}

// BenchmarkClaims is claims of 64 workers' goroutines at a time.
func BenchmarkClaims(b *testing.B) {
	s := openStore(b, ownServer(b), nil)
	w := alive{id: workerID()}
	incarnation, _, err := s.Register(b.Context(), w.id, someInfo)
	if err != nil {
		b.Fatal(err)
	}
	w.incarnation = incarnation
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Claim(b.Context(), newSession(), w.record()); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "claims/s")
}

// freezer passes bytes to an etcd until it is frozen: then connections stay open
// and nothing comes back, as from a machine that is stuck.
type freezer struct{ gate sync.RWMutex }

func freeze(t testing.TB, target string) (url string, f *freezer) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f = &freezer{}
	var copies sync.WaitGroup
	var conns sync.Map
	copies.Go(func() {
		for {
			in, err := lis.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", strings.TrimPrefix(target, "http://"))
			if err != nil {
				in.Close()
				continue
			}
			conns.Store(in, out)
			copies.Go(func() { f.copy(in, out) })
			copies.Go(func() { f.copy(out, in) })
		}
	})
	t.Cleanup(func() {
		lis.Close()
		conns.Range(func(in, out any) bool {
			in.(net.Conn).Close()
			out.(net.Conn).Close()
			return true
		})
		copies.Wait()
	})
	return "http://" + lis.Addr().String(), f
}

func (f *freezer) copy(to, from net.Conn) {
	defer to.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		f.gate.RLock()
		_, err = to.Write(buf[:n])
		f.gate.RUnlock()
		if err != nil {
			return
		}
	}
}

func TestEtcdThatDoesNotAnswerIsUnavailableInBoundedTime(t *testing.T) {
	server := ownServer(t)
	url, f := freeze(t, server.Endpoints()[0])
	s, err := Open(ClientConfig{Endpoints: []string{url}, LeaseTTL: testTTL})
	if err != nil {
		t.Fatal(err)
	}
	runStore(t, s)
	w := register(t, s)
	w.claim(t, s, newSession())
	f.gate.Lock()
	began := time.Now()
	_, err = s.Claim(testContext(t), newSession(), w.record())
	if took := time.Since(began); !errors.Is(err, store.ErrUnavailable) || took > batchTimeout+2*time.Second {
		t.Errorf("claim: %v after %s, want ErrUnavailable within %s", err, took, batchTimeout)
	}
	f.gate.Unlock()
	w.claim(t, s, newSession())
}
