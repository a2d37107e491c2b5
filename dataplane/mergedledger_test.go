package dataplane_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	gosdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"google.golang.org/protobuf/types/known/durationpb"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// mortal is an upstream that can be killed, and started again at its address: it has
// lost its sessions then, and has a ledger of its own for each of its lives, whose
// numbers are other ones.
type mortal struct {
	tb      testing.TB
	name    string
	address string

	mu    sync.Mutex // guards what follows
	lives []*upstreamServer
	run   *http.Server // nil while it is dead
}

// perLife is how far the counters of one life are from those of the next.
const perLife = 100_000

func startMortal(tb testing.TB, name string) *mortal {
	m := &mortal{tb: tb, name: name, address: "127.0.0.1:0"}
	m.start()
	tb.Cleanup(m.kill)
	return m
}

func (m *mortal) start() {
	l, err := net.Listen("tcp", m.address)
	if err != nil {
		m.tb.Errorf("upstream %s: %v", m.name, err)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.address = l.Addr().String()
	life := &upstreamServer{sessions: map[string]int{}, lists: true, before: len(m.lives) * perLife}
	m.lives, m.run = append(m.lives, life), &http.Server{Handler: life}
	go m.run.Serve(l)
}

// kill breaks all connections.
func (m *mortal) kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.run != nil {
		m.run.Close()
	}
	m.run = nil
}

// life returns the ledger of the newest life.
func (m *mortal) life() *upstreamServer {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lives[len(m.lives)-1]
}

// counted returns how many sessions of a life were ever opened, and the counters of
// those that live.
func (u *upstreamServer) counted() (opened, live, sum int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, n := range u.sessions {
		sum += n - u.before
	}
	return u.opened, len(u.sessions), sum
}

// counting is a client with several upstreams and what they have answered. Safe for
// concurrent use, but for its client.
type counting struct {
	*client
	mu       sync.Mutex // guards answered
	answered map[*mortal]map[int]int
}

// count calls the tool of an upstream and reports whether that was answered. One that
// cannot die has to answer.
func (c *counting) count(as *client, w *worker, m *mortal, mayDie bool) bool {
	status, text := as.tool(w, m.name+"_n", "{}")
	n, err := strconv.Atoi(text)
	if err != nil {
		if !mayDie || status != http.StatusOK || !strings.Contains(text, `"upstream":"`+m.name+`"`) {
			c.tb.Errorf("call of %s: got %d %s", m.name, status, text)
		}
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.answered[m] == nil {
		c.answered[m] = map[int]int{}
	}
	c.answered[m][n]++
	return true
}

// check wants each number to have been answered once, and all those of the newest life
// of an upstream to be there. It returns how many those are.
func (c *counting) check(m *mortal) (n int) {
	newest := m.life().before
	for got, times := range c.answered[m] {
		if times != 1 {
			c.tb.Errorf("upstream %s: %d was answered %d times", m.name, got, times)
		}
		if got > newest {
			n++
		}
	}
	for i := range n {
		if c.answered[m][newest+1+i] == 0 {
			c.tb.Errorf("upstream %s: of %d answers none is %d", m.name, n, i+1)
		}
	}
	return n
}

// TestEverySessionHasOneSessionAtEachUpstreamWhateverDies kills three of five upstreams
// at random while a hundred sessions count at all five,
// each with two calls at a time.
func TestEverySessionHasOneSessionAtEachUpstreamWhateverDies(t *testing.T) {
	const sessions, twins, rounds, deaths = 100, 2, 6, 2
	p := startPlane(t)
	var ups []*mortal
	var definitions []*leaseholdv1.Upstream
	for i := range 5 {
		m := startMortal(t, fmt.Sprintf("u%d", i))
		ups = append(ups, m)
		definitions = append(definitions, &leaseholdv1.Upstream{Name: m.name, Url: "http://" + m.address})
	}
	p.setGatewayOf("g", definitions...)
	workers := []*worker{startWorker(t, p), startWorker(t, p)}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	mayDie := make([]bool, len(ups))
	var clients []*counting
	for i := range sessions {
		c := &counting{client: newClient(t, "g"), answered: map[*mortal]map[int]int{}}
		c.initialize(workers[i%2])
		c.do(workers[i%2], http.MethodPost, `{"jsonrpc":"2.0","method":"notifications/initialized"}`)
		clients = append(clients, c)
	}
	// When one dies, and for how long, is told in calls: not so long that the pauses
	// between tries to open it again get long.
	const part = sessions * twins * rounds * 5 / deaths
	deeds := map[int64][]func(){}
	for _, v := range random.Perm(len(ups))[:3] {
		mayDie[v] = true
		for n := range int64(deaths) {
			dies := n*part + 1 + random.Int64N(part*9/10)
			lives := dies + 1 + random.Int64N(part/10-1)
			deeds[dies] = append(deeds[dies], ups[v].kill)
			deeds[lives] = append(deeds[lives], ups[v].start)
		}
	}
	var made, refused atomic.Int64
	slots := make(chan struct{}, 32) // more calls at a time would measure the machine
	var group sync.WaitGroup
	for i, c := range clients {
		for twin := range twins {
			as := *c.client // which numbers its requests for itself
			as.ids = 1000 * (1 + twin)
			group.Go(func() {
				for round := range rounds {
					for k, m := range ups {
						slots <- struct{}{}
						if !c.count(&as, workers[(i+round)%2], m, mayDie[k]) {
							refused.Add(1)
						}
						<-slots
						for _, do := range deeds[made.Add(1)] {
							do()
						}
					}
				}
			})
		}
	}
	group.Wait()
	t.Logf("%d calls, %d of them refused", made.Load(), refused.Load())
	for i, c := range clients {
		for k, m := range ups {
			eventually(t, "an upstream is there again", func() bool { return c.count(c.client, workers[i%2], m, mayDie[k]) })
		}
	}
	for k, m := range ups {
		for i, life := range m.lives {
			opened, live, sum := life.counted()
			if i < len(m.lives)-1 {
				if opened > sessions || i == 0 && opened < sessions {
					t.Errorf("upstream %s, life %d: %d sessions, want one for each of %d", m.name, i+1, opened, sessions)
				}
				continue
			}
			want := 0
			for _, c := range clients {
				want += c.check(m)
			}
			if opened != sessions || live != sessions || sum != want {
				t.Errorf("upstream %s, life %d: %d sessions opened, %d live, which have counted to %d; want %d, %d and %d, which is what was answered",
					m.name, i+1, opened, live, sum, sessions, sessions, want)
			}
		}
		if want := map[bool]int{false: 1, true: 1 + deaths}[mayDie[k]]; len(m.lives) != want {
			t.Errorf("upstream %s has had %d lives, want %d", m.name, len(m.lives), want)
		}
	}
	for i, c := range clients {
		if resp, body := c.do(workers[i%2], http.MethodDelete, ""); resp.StatusCode != http.StatusNoContent {
			t.Fatalf("DELETE: got %d %s", resp.StatusCode, body)
		}
	}
	for _, m := range ups {
		if _, live, _ := m.life().counted(); live != 0 {
			t.Errorf("upstream %s: %d sessions are left", m.name, live)
		}
	}
}

// holdInitialize has an upstream hold each initialize for a time, or until it is let go.
func holdInitialize(u *upstreamServer, d time.Duration, letGo <-chan struct{}) {
	u.setHook(func(_ http.ResponseWriter, _ *http.Request, method string) bool {
		if method == "initialize" {
			select {
			case <-time.After(d):
			case <-letGo:
			}
		}
		return false
	})
}

// TestInitializeOfTwentyUpstreamsIsAnsweredInItsTime has one upstream that takes longer
// than initialize waits, one that nobody can reach, and one that says nothing at all.
func TestInitializeOfTwentyUpstreamsIsAnsweredInItsTime(t *testing.T) {
	const budget = time.Second
	p := startPlane(t)
	var names []string
	var definitions []*leaseholdv1.Upstream
	add := func(name, url string) {
		definitions = append(definitions, &leaseholdv1.Upstream{Name: name, Url: url})
	}
	for i := range 17 {
		u := startUpstream(t)
		u.lists = true
		name := fmt.Sprintf("u%d", i)
		add(name, u.URL)
		names = append(names, name+"_n")
	}
	gone, mute := startMortal(t, "gone"), startUpstream(t)
	gone.kill()
	add("gone", "http://"+gone.address)
	silent := make(chan struct{})
	holdInitialize(mute, time.Hour, silent)
	defer close(silent)
	add("mute", mute.URL)
	slow, letGo := startUpstream(t), make(chan struct{})
	slow.lists = true
	holdInitialize(slow, 20*time.Second, letGo)
	add("slow", slow.URL)
	p.setGatewayOf("g", definitions...)
	p.change(func() { p.gateways["gateways/g"].OpenTimeout = durationpb.New(budget) })
	w := startWorker(t, p)
	changes := make(chan struct{}, 100)
	began := time.Now()
	s := connectGoSDK(t, w, "g", &gosdk.ClientOptions{ToolListChangedHandler: func(context.Context, *gosdk.ToolListChangedRequest) { changes <- struct{}{} }})
	if took := time.Since(began); took < budget || took > budget+5*time.Second {
		t.Errorf("initialize took %v, want the %v that it waits", took, budget)
	}
	listed := func() (got []string) {
		for tool, err := range s.Tools(t.Context(), nil) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, tool.Name)
		}
		slices.Sort(got)
		return got
	}
	slices.Sort(names)
	if got := listed(); !slices.Equal(got, names) {
		t.Errorf("tools: got %q, want those of the 17 that are there", got)
	}
	close(letGo)
	await(t, changes)
	if got, want := listed(), slices.Sorted(slices.Values(append(names, "slow_n"))); !slices.Equal(got, want) {
		t.Errorf("tools once the slow one is there: got %q, want %q", got, want)
	}
}

// TestInitializeOfTenUpstreamsTakesAsLongAsTheSlowestOfThem compares medians, of the
// gateway of all ten and of one of the slowest alone.
func TestInitializeOfTenUpstreamsTakesAsLongAsTheSlowestOfThem(t *testing.T) {
	p := startPlane(t)
	var definitions []*leaseholdv1.Upstream
	var slowest string
	for i := range 10 {
		u := startUpstream(t)
		holdInitialize(u, time.Duration(i+1)*25*time.Millisecond, nil)
		definitions = append(definitions, &leaseholdv1.Upstream{Name: fmt.Sprintf("u%d", i), Url: u.URL})
		slowest = u.URL
	}
	p.setGatewayOf("ten", definitions...)
	p.setGateway("one", slowest, nil)
	w := startWorker(t, p)
	took := map[string][]time.Duration{}
	for range 5 {
		for _, gateway := range []string{"one", "ten"} {
			c := newClient(t, gateway)
			began := time.Now()
			c.initialize(w)
			took[gateway] = append(took[gateway], time.Since(began))
		}
	}
	p50 := func(gateway string) time.Duration { return slices.Sorted(slices.Values(took[gateway]))[2] }
	one, ten := p50("one"), p50("ten")
	t.Logf("p50: %v with ten, %v with the slowest, × %.2f", ten, one, float64(ten)/float64(one))
	if ten > one*3/2 {
		t.Errorf("p50 of initialize with ten upstreams: got %v, want at most 1.5 × the %v of the slowest alone", ten, one)
	}
}
