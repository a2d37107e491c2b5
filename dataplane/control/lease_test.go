package control

import (
	"context"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/leasehold/leasehold/dataplane/config"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	bubbleTTL = 6 * time.Second
	margin    = bubbleTTL / 4
)

// fake is a replica in memory: bubbles of synctest have no sockets. Its answers
// take no time, unless a test says so.
type fake struct {
	leaseholdv1.ControlServiceClient // what these tests do not call
	// answer decides what a call is answered with; nil for its success.
	answer func(ctx context.Context, method string) error
	// record answers RecordPeers; nil is a control plane that does not know it.
	record func(ctx context.Context, r *leaseholdv1.RecordPeersRequest) (*leaseholdv1.RecordPeersResponse, error)
	outage time.Duration // for how long workers may serve on

	mu    sync.Mutex // guards what follows
	calls []called
	infos []*leaseholdv1.WorkerInfo // what the worker said of itself
}

// called is a call that a replica got.
type called struct {
	method  string
	at      time.Time
	timeout time.Duration
	lease   int64
}

func (f *fake) call(ctx context.Context, method string, lease int64) error {
	one := called{method: method, at: time.Now(), lease: lease}
	if deadline, ok := ctx.Deadline(); ok {
		one.timeout = time.Until(deadline)
	}
	f.mu.Lock()
	f.calls = append(f.calls, one)
	f.mu.Unlock()
	if f.answer == nil {
		return nil
	}
	return f.answer(ctx, method)
}

// got returns the calls of a method.
func (f *fake) got(method string) (calls []called) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.calls {
		if c.method == method {
			calls = append(calls, c)
		}
	}
	return calls
}

func (f *fake) last(method string) called {
	calls := f.got(method)
	if len(calls) == 0 {
		return called{}
	}
	return calls[len(calls)-1]
}

func (f *fake) Register(ctx context.Context, r *leaseholdv1.RegisterRequest, _ ...grpc.CallOption) (*leaseholdv1.RegisterResponse, error) {
	err := f.call(ctx, "Register", 0)
	f.note(r.GetInfo())
	return &leaseholdv1.RegisterResponse{Incarnation: 7, Lease: 70, Ttl: durationpb.New(bubbleTTL), MaxOutage: durationpb.New(f.outage)}, err
}

func (f *fake) note(info *leaseholdv1.WorkerInfo) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.infos = append(f.infos, info)
}

func (f *fake) Renew(ctx context.Context, r *leaseholdv1.RenewRequest, _ ...grpc.CallOption) (*leaseholdv1.RenewResponse, error) {
	return &leaseholdv1.RenewResponse{Ttl: durationpb.New(bubbleTTL), MaxOutage: durationpb.New(f.outage)}, f.call(ctx, "Renew", r.GetLease())
}

func (f *fake) Readopt(ctx context.Context, r *leaseholdv1.ReadoptRequest, _ ...grpc.CallOption) (*leaseholdv1.ReadoptResponse, error) {
	f.note(r.GetInfo())
	return &leaseholdv1.ReadoptResponse{Lease: 71, Ttl: durationpb.New(bubbleTTL), MaxOutage: durationpb.New(f.outage)}, f.call(ctx, "Readopt", 0)
}

func (f *fake) RecordPeers(ctx context.Context, r *leaseholdv1.RecordPeersRequest, _ ...grpc.CallOption) (*leaseholdv1.RecordPeersResponse, error) {
	if err := f.call(ctx, "RecordPeers", 0); err != nil {
		return nil, err
	}
	if f.record == nil {
		return nil, status.Error(codes.Unimplemented, "unknown method RecordPeers")
	}
	return f.record(ctx, r)
}

func (f *fake) Leave(ctx context.Context, r *leaseholdv1.LeaveRequest, _ ...grpc.CallOption) (*leaseholdv1.LeaveResponse, error) {
	return &leaseholdv1.LeaveResponse{}, f.call(ctx, "Leave", r.GetLease())
}

func (f *fake) Reclaim(ctx context.Context, r *leaseholdv1.ReclaimRequest, _ ...grpc.CallOption) (*leaseholdv1.ReclaimResponse, error) {
	return &leaseholdv1.ReclaimResponse{Revision: 9}, f.call(ctx, "Reclaim", 0)
}

func (f *fake) SetDraining(ctx context.Context, _ *leaseholdv1.SetDrainingRequest, _ ...grpc.CallOption) (*leaseholdv1.SetDrainingResponse, error) {
	return &leaseholdv1.SetDrainingResponse{}, f.call(ctx, "SetDraining", 0)
}

func (f *fake) Watch(ctx context.Context, _ ...grpc.CallOption) (grpc.BidiStreamingClient[leaseholdv1.WatchRequest, leaseholdv1.WatchResponse], error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// delay answers after d, like a reply that is on its way for long.
func delay(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

var errAway = status.Error(codes.Unavailable, "away")

// bubble is a client in a bubble of synctest, with the machine's clock in the
// hands of the test.
type bubble struct {
	*Client
	start   time.Time
	suspend atomic.Int64 // how long the machine was suspended
	metrics *prometheus.Registry
	serving atomic.Pointer[error]
}

func newBubble(t *testing.T, replicas ...*fake) *bubble {
	t.Helper()
	b := &bubble{start: time.Now(), metrics: prometheus.NewRegistry()}
	var rs []replica
	for i, f := range replicas {
		rs = append(rs, replica{string(rune('a' + i)), io.NopCloser(nil), f})
	}
	var err error
	b.Client, err = assemble(Config{
		Worker: "0123456789abcdef", Info: &leaseholdv1.WorkerInfo{},
		Apply: func(*config.State) ([]config.Rejection, error) { return nil, nil }, Lost: func() {}, Registered: func(int64, time.Duration) {},
		Serving: func() error {
			if err := b.serving.Load(); err != nil {
				return *err
			}
			return nil
		},
		DataDir: t.TempDir(), Logger: hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: t.Output()}), Metrics: b.metrics,
		now: func() time.Duration { return time.Hour + time.Since(b.start) + time.Duration(b.suspend.Load()) },
	}, rs)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// run runs the client while f does, in a bubble.
func (b *bubble) run(t *testing.T, f func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	group.Go(func() { b.Run(ctx) })
	synctest.Wait()
	f()
	cancel()
	group.Wait()
}

// endsAt checks that the authority ends exactly at a time.
func (b *bubble) endsAt(t *testing.T, what string, end time.Time) {
	t.Helper()
	if !end.After(time.Now()) {
		t.Fatalf("%s: the authority is to end at %v, which is over", what, end.Sub(b.start))
	}
	time.Sleep(time.Until(end) - time.Nanosecond)
	if !b.Authority().Holds(7) {
		t.Errorf("%s: the authority ended before %v", what, end.Sub(b.start))
	}
	time.Sleep(time.Nanosecond)
	if b.Authority().Holds(7) {
		t.Errorf("%s: the authority did not end at %v", what, end.Sub(b.start))
	}
}

func TestAuthorityEndsAMarginBeforeTheTTLAfterTheSendOfTheLastAcknowledgedRenewal(t *testing.T) {
	for _, late := range []time.Duration{0, 300 * time.Millisecond, 719 * time.Millisecond} {
		for renewals := range 3 {
			synctest.Test(t, func(t *testing.T) {
				f := &fake{}
				f.answer = func(ctx context.Context, method string) error {
					if method == "Renew" && len(f.got("Renew")) > renewals {
						return errAway
					}
					return delay(ctx, late)
				}
				b := newBubble(t, f)
				b.run(t, func() {
					time.Sleep(bubbleTTL/6*time.Duration(renewals) + late*2 + time.Millisecond)
					sent := f.last("Register").at
					if renewals > 0 {
						sent = f.got("Renew")[renewals-1].at
					}
					b.endsAt(t, late.String(), sent.Add(bubbleTTL-margin))
				})
			})
		}
	}
}

func TestALateReplyOfARegistrationMovesNoFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{answer: func(ctx context.Context, method string) error {
			if method == "Renew" {
				return errAway
			}
			return delay(ctx, firstAttempt-time.Millisecond)
		}}
		b := newBubble(t, f)
		b.run(t, func() {
			time.Sleep(firstAttempt)
			b.endsAt(t, "late registration", f.last("Register").at.Add(bubbleTTL-margin))
		})
	})
}

func TestRenewalsGoOutEverySixthOfTheTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		b := newBubble(t, f)
		b.run(t, func() { time.Sleep(10*bubbleTTL + bubbleTTL/12) })
		renewals := f.got("Renew")
		if len(renewals) != 60 {
			t.Fatalf("renewals in 10 TTLs: got %d, want 60", len(renewals))
		}
		for i, r := range renewals {
			if want := time.Duration(i+1) * bubbleTTL / 6; r.at.Sub(b.start) != want {
				t.Errorf("renewal %d: got it at %v, want %v", i+1, r.at.Sub(b.start), want)
			}
		}
	})
}

func TestARenewalThatHangsGoesToTheNextReplicaAfterItsShareOfTheTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := func(ctx context.Context, method string) error {
			if method != "Renew" {
				return nil
			}
			<-ctx.Done()
			return status.FromContextError(ctx.Err()).Err()
		}
		a, b, c := &fake{answer: hang}, &fake{answer: hang}, &fake{}
		w := newBubble(t, a, b, c)
		w.run(t, func() {
			const attempt = bubbleTTL * 12 / 100
			time.Sleep(bubbleTTL/6 + 2*attempt + 100*time.Millisecond) // the last is for the pauses in between
			for i, f := range []*fake{a, b, c} {
				got := f.got("Renew")
				if len(got) == 0 || i < 2 && len(got) > 1 || got[0].timeout != attempt {
					t.Fatalf("replica %d: got renewals %v, want 1 with %v to answer", i, got, attempt)
				}
			}
			if !w.Authority().Holds(7) {
				t.Error("fenced although a replica answers")
			}
			time.Sleep(bubbleTTL)
			if len(a.got("Renew")) != 1 || len(c.got("Renew")) < 6 {
				t.Errorf("renewals: got %d at the first and %d at the last replica; want 1, and all others where one was answered", len(a.got("Renew")), len(c.got("Renew")))
			}
		})
	})
}

func TestReplicasAreAskedInTurnWhileNoneAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var order []string
		replicas := make([]*fake, 3)
		for i := range replicas {
			replicas[i] = &fake{answer: func(_ context.Context, method string) error {
				mu.Lock()
				defer mu.Unlock()
				order = append(order, string(rune('a'+i)))
				if len(order) < 8 {
					return errAway
				}
				return nil
			}}
		}
		w := newBubble(t, replicas...)
		w.run(t, func() { time.Sleep(bubbleTTL) })
		if got := strings.Join(order[:8], ""); got != "abcabcab" {
			t.Errorf("got %s, want the replicas in turn", got)
		}
	})
}

func TestASuspendedMachineIsFencedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var gone atomic.Bool
		f := &fake{}
		f.answer = func(_ context.Context, method string) error {
			if method == "Renew" && gone.Swap(false) {
				return refused(codes.NotFound, "LEASE_LOST")
			}
			return nil
		}
		b := newBubble(t, f)
		b.run(t, func() {
			time.Sleep(bubbleTTL + bubbleTTL/12)
			if !b.Authority().Holds(7) {
				t.Fatal("no authority before the suspend")
			}
			gone.Store(true)
			b.suspend.Store(int64(time.Hour))
			if b.Authority().Holds(7) {
				t.Error("the worker dispatches after an hour of suspend, before it renewed anything")
			}
			b.counts(t, 1, 1)
			time.Sleep(bubbleTTL / 6)
			if !b.Authority().Holds(7) || len(f.got("Readopt")) != 1 {
				t.Errorf("after the next renewal: got authority %v and %d re-adoptions, want it again after 1", b.Authority().Holds(7), len(f.got("Readopt")))
			}
			b.counts(t, 0, 1)
		})
	})
}

// TestTheWallClockDecidesNothing: however it jumps, what does not read it is not
// moved. Timers and timeouts run on the clock that cannot be set.
func TestTheWallClockDecidesNothing(t *testing.T) {
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !strings.HasSuffix(file.Name(), ".go") || strings.HasSuffix(file.Name(), "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok && slices.Contains([]string{"Now", "Since", "Until"}, s.Sel.Name) {
				if pkg, ok := s.X.(*ast.Ident); ok && pkg.Name == "time" {
					t.Errorf("%s uses time.%s: a lease is measured with the clock since boot, which comes in as a function", file.Name(), s.Sel.Name)
				}
			}
			return true
		})
	}
}

func TestALostLeaseIsReadoptedAndTheNewOneRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const late = time.Second
		f := &fake{}
		f.answer = func(ctx context.Context, method string) error {
			switch {
			case method == "Readopt":
				return delay(ctx, late)
			case method == "Renew" && len(f.got("Renew")) == 1:
				return refused(codes.NotFound, "LEASE_LOST")
			case method == "Renew" && len(f.got("Renew")) > 2:
				return errAway
			}
			return nil
		}
		b := newBubble(t, f)
		b.run(t, func() {
			time.Sleep(bubbleTTL/6 + late + time.Millisecond)
			if got := f.got("Readopt"); len(got) != 1 || got[0].timeout != firstAttempt || !b.Authority().Holds(7) {
				t.Fatalf("re-adoptions: got %v and authority %v, want 1 with %v to answer, and authority", got, b.Authority().Holds(7), firstAttempt)
			}
			renewals := f.got("Renew") // the next was due meanwhile
			if len(renewals) != 2 || renewals[0].lease != 70 || renewals[1].lease != 71 {
				t.Errorf("renewals: got %v, want the old lease and then the new one", renewals)
			}
			b.endsAt(t, "renewed after the re-adoption", renewals[1].at.Add(bubbleTTL-margin))
		})
		if n := len(f.got("Register")); n != 1 {
			t.Errorf("registrations: got %d, want 1: the incarnation stays", n)
		}
	})
}

func TestADoubtedLeaseIsAskedForAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		f.answer = func(_ context.Context, method string) error {
			if method == "Renew" {
				return refused(codes.NotFound, "LEASE_LOST")
			}
			return nil
		}
		b := newBubble(t, f)
		b.run(t, func() {
			time.Sleep(bubbleTTL / 60)
			b.Doubt()
			b.Doubt() // once is enough
			synctest.Wait()
			if renewals, readoptions := len(f.got("Renew")), len(f.got("Readopt")); renewals == 0 || readoptions != renewals {
				t.Errorf("got %d renewals and %d re-adoptions, want the lease to be asked for and re-adopted at once", renewals, readoptions)
			}
		})
	})
}

func TestAuthorityAfterAReadoptionCountsFromItsSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const late = firstAttempt - time.Millisecond
		f := &fake{}
		f.answer = func(ctx context.Context, method string) error {
			switch {
			case method == "Readopt":
				return delay(ctx, late)
			case method == "Renew" && len(f.got("Renew")) == 1:
				return refused(codes.NotFound, "LEASE_LOST")
			case method == "Renew":
				return errAway
			}
			return nil
		}
		b := newBubble(t, f)
		b.run(t, func() {
			time.Sleep(bubbleTTL/6 + late + time.Millisecond)
			b.endsAt(t, "re-adopted", f.last("Readopt").at.Add(bubbleTTL-margin))
		})
	})
}

func TestALeaseThatIsNotServedIsLeftToRunOut(t *testing.T) {
	stuck := errors.New("the listener hangs")
	for _, away := range []bool{false, true} { // the control plane, when it begins
		synctest.Test(t, func(t *testing.T) {
			var unreachable atomic.Bool
			f := &fake{answer: func(context.Context, string) error {
				if unreachable.Load() {
					return errAway
				}
				return nil
			}}
			b := newBubble(t, f)
			b.run(t, func() {
				time.Sleep(bubbleTTL + bubbleTTL/12)
				acknowledged := f.last("Renew")
				unreachable.Store(away)
				time.Sleep(bubbleTTL / 6) // a renewal is tried again and again if nobody answers
				if !away {
					acknowledged = f.last("Renew")
				}
				b.serving.Store(&stuck)
				time.Sleep(time.Second)
				unreachable.Store(false)
				n := len(f.got("Renew"))
				b.endsAt(t, "not served", acknowledged.at.Add(bubbleTTL-margin))
				time.Sleep(10 * bubbleTTL)
				if got := len(f.got("Renew")) - n + len(f.got("Readopt")); got != 0 {
					t.Errorf("renewals and re-adoptions while it does not serve: got %d, want 0", got)
				}
				if away { // and otherwise it is counted without that anybody looks
					b.counts(t, 1, 1)
				}
				b.serving.Store(nil)
				time.Sleep(bubbleTTL / 6)
				if !b.Authority().Holds(7) {
					t.Error("no authority once it serves again")
				}
				b.counts(t, 0, 1)
			})
		})
	}
}

// counts checks the metrics.
func (b *bubble) counts(t *testing.T, fenced, fences float64) {
	t.Helper()
	got := map[string]float64{}
	families, err := b.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		got[f.GetName()] = f.GetMetric()[0].GetGauge().GetValue() + f.GetMetric()[0].GetCounter().GetValue()
	}
	for name, want := range map[string]float64{"leasehold_worker_fenced": fenced, "leasehold_worker_fences_total": fences} {
		if value, ok := got[name]; !ok || value != want {
			t.Errorf("%s: got %v (there: %v), want %v", name, value, ok, want)
		}
	}
}
