package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/cluster"
)

// crew is many clients of one gateway, each with a session in which it counts.
type crew struct {
	t       *testing.T
	gateway string
	name    string // unique; the tags of its calls begin with it
	members []*member
	http    *http.Client
	targets atomic.Pointer[[]*cluster.Worker] // where they send requests
	started time.Time

	mu     sync.Mutex // guards what follows
	calls  []*call
	breaks []string // ends of listeners' streams that a client has to call failures, in words
	moved  int      // ends of listeners' streams at which they were asked to come back

	stop  context.CancelFunc // ends the work
	group sync.WaitGroup     // of those who work
	hush  context.CancelFunc // ends the listening
	ears  sync.WaitGroup     // of those who listen
}

// member is one client. It may have several calls in flight.
type member struct {
	crew    *crew
	number  int
	session *client.Session
	owner   string // the name of the worker that owned the session when locate looked

	seq    atomic.Int64 // of its requests, which are their ids
	mu     sync.Mutex   // guards what follows
	chance *rand.Rand
	heard  map[string]int // tags that its listener was told
	lastID string         // of the events that its listener was told
	retry  time.Duration  // how long its listener waits before it opens another stream
}

// order says what a call is to do.
type order struct {
	// tool is what is called; mark if it is empty. With method nothing is called.
	tool string
	// method is asked instead of a tool.
	method string
	// ms is how long the call takes, steps how many events it sends meanwhile.
	ms, steps int
	// announce has the call told to the session's listener.
	announce bool
	// hang has the upstream say nothing more after the events.
	hang bool
	// at is where it is sent first; nil leaves that to chance.
	at *cluster.Worker
	// id is the request's id; 0 means a new one.
	id int64
}

// call is a request of a member and what became of it.
type call struct {
	order
	member     *member
	tag        string // unique; the upstream writes it down if it is a mark
	begin, end time.Time
	front      *cluster.Worker // the worker that was sent the request last
	tried      int             // how many refused the connection before
	outcome    outcome
	count      int64 // the counter, if a mark was answered
	err        error
	header     http.Header
}

// took is how long the call took.
func (c *call) took() time.Duration { return c.end.Sub(c.begin) }

// String says what there is to know about a call that went wrong.
func (c *call) String() string {
	start := c.member.crew.started
	return fmt.Sprintf("%s at %s (session of %s), from %v to %v: %s: %v", c.tag, c.front.Name, c.member.owner,
		c.begin.Sub(start).Round(time.Millisecond), c.end.Sub(start).Round(time.Millisecond), c.outcome, c.err)
}

// crews counts the crews, for their names.
var crews atomic.Int64

// enlist opens n sessions of a gateway, evenly at the given workers.
func enlist(t *testing.T, gateway string, workers []*cluster.Worker, n int) *crew {
	t.Helper()
	c := &crew{t: t, gateway: gateway, name: fmt.Sprint(gateway, crews.Add(1)), http: keepAlive(), started: time.Now(),
		stop: func() {}, hush: func() {}}
	c.target(workers...)
	c.more(workers, n)
	return c
}

// more opens n more sessions, evenly at the given workers, and returns them.
func (c *crew) more(workers []*cluster.Worker, n int) []*member {
	c.t.Helper()
	first := len(c.members)
	c.members = append(c.members, make([]*member, n)...)
	errs := side(n, 32, func(i int) error {
		m, err := c.open(c.t.Context(), first+i, workers[i%len(workers)])
		c.members[first+i] = m
		return err
	})
	if len(errs) > 0 {
		c.t.Fatalf("%d of %d sessions were not opened, among them %v", len(errs), n, errs[0])
	}
	return c.members[first:]
}

// open opens a session at a worker, the notification included. The member is nil
// if there is no session.
func (c *crew) open(ctx context.Context, number int, at *cluster.Worker) (*member, error) {
	m := &member{crew: c, number: number, heard: map[string]int{}, retry: usualRetry, chance: chance(c.t, fmt.Sprint(c.gateway, number))}
	a := post(ctx, c.http, at.URL(c.gateway), nil, "1", string(client.Initialize(1)))
	if a.outcome != answered {
		return nil, fmt.Errorf("initialize at %s: %s: %w", at.Name, a.outcome, a.err)
	}
	m.session = &client.Session{ID: a.header.Get("Mcp-Session-Id"), Protocol: client.Version}
	m.seq.Store(1)
	resp, err := m.session.Do(ctx, http.MethodPost, at.URL(c.gateway), []byte(`{"jsonrpc":"2.0","method":"notifications/initialized"}`))
	if err == nil && resp.Status != http.StatusAccepted {
		err = &client.StatusError{Response: resp}
	}
	if err != nil {
		return m, fmt.Errorf("initialized at %s: %w", at.Name, err)
	}
	return m, nil
}

// target says where the crew sends requests from now on.
func (c *crew) target(workers ...*cluster.Worker) {
	list := slices.Clone(workers)
	c.targets.Store(&list)
}

// side calls f for 0 … n-1, at most width at a time, and returns the errors.
func side(n, width int, f func(i int) error) []error {
	var (
		mu    sync.Mutex
		errs  []error
		group sync.WaitGroup
		slots = make(chan struct{}, width)
	)
	for i := range n {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			if err := f(i); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	group.Wait()
	return errs
}

// work has members call again and again, with a pause of about pace between two
// calls, until rest.
func (c *crew) work(members []*member, pace time.Duration) {
	ctx, cancel := context.WithCancel(c.t.Context())
	stop := c.stop
	c.stop = func() { stop(); cancel() }
	for _, m := range members {
		c.group.Go(func() { m.loop(ctx, pace) })
	}
}

// halt stops the work and waits for the calls in flight. Those who listen go on.
func (c *crew) halt() {
	c.stop()
	c.group.Wait()
}

// rest stops the work, waits for the calls in flight, and stops the listening.
func (c *crew) rest() {
	c.halt()
	c.hush()
	c.ears.Wait()
}

// loop calls until ctx ends, and then ends between two calls.
func (m *member) loop(ctx context.Context, pace time.Duration) {
	for {
		pause := time.NewTimer(time.Duration(m.random(0.5, 1.5) * float64(pace)))
		select {
		case <-ctx.Done():
			pause.Stop()
			return
		case <-pause.C:
			m.do(context.WithoutCancel(ctx), m.whim())
		}
	}
}

// whim is what a member happens to want: mostly a short call.
func (m *member) whim() order {
	switch dice := m.random(0, 1); {
	case dice < 0.10:
		return order{ms: 30, steps: 3}
	case dice < 0.15:
		return order{ms: int(m.random(50, 200))}
	case dice < 0.20:
		return order{method: "tools/list"}
	case dice < 0.30:
		return order{announce: true}
	}
	return order{}
}

// random returns a number between low and high.
func (m *member) random(low, high float64) float64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return low + m.chance.Float64()*(high-low)
}

// fronts are the workers that a call is sent to in turn while they refuse.
func (m *member) fronts(first *cluster.Worker) []*cluster.Worker {
	list := slices.Clone(*m.crew.targets.Load())
	m.mu.Lock()
	m.chance.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	m.mu.Unlock()
	if first != nil {
		list = slices.DeleteFunc(list, func(w *cluster.Worker) bool { return w == first })
		list = slices.Insert(list, 0, first)
	}
	return list
}

// do makes a call and keeps what became of it.
func (m *member) do(ctx context.Context, o order) *call {
	seq := m.seq.Add(1)
	if o.id == 0 {
		o.id = seq
	}
	c := &call{order: o, member: m, tag: fmt.Sprintf("%s:%d.%d", m.crew.name, m.number, seq), begin: time.Now()}
	body := c.body()
	for i, front := range m.fronts(o.at) {
		c.front, c.tried = front, i
		a := post(ctx, m.crew.http, front.URL(m.crew.gateway), m.session.Header(), fmt.Sprint(o.id), body)
		c.take(a)
		if a.outcome != refused {
			break
		}
	}
	c.end = time.Now()
	m.crew.mu.Lock()
	defer m.crew.mu.Unlock()
	m.crew.calls = append(m.crew.calls, c)
	return c
}

// body is the request as it is sent.
func (c *call) body() string {
	if c.method != "" {
		return fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":%q}`, c.id, c.method)
	}
	tool := c.tool
	if tool == "" {
		tool = "mark"
	}
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"tools/call","params":{"name":%q,`+
		`"arguments":{"tag":%q,"ms":%d,"steps":%d,"announce":%t,"hang":%t},"_meta":{"progressToken":%q}}}`,
		c.id, tool, c.tag, c.ms, c.steps, c.announce, c.hang, c.tag)
}

// marks reports whether the call is one that the upstream writes down by its tag.
func (c *call) marks() bool { return c.method == "" && c.tool == "" }

// take keeps an answer, and checks that all of it belongs to the call.
func (c *call) take(a answer) {
	c.outcome, c.err, c.header = a.outcome, a.err, a.header
	for _, other := range a.others {
		if !strings.Contains(string(other), `"progressToken":"`+c.tag+`"`) {
			c.outcome, c.err = wrong, fmt.Errorf("the answer's stream has an event of something else: %.200s", other)
		}
	}
	if c.outcome != answered || !c.marks() {
		return
	}
	text, err := a.text()
	if err == nil {
		_, err = fmt.Sscanf(text, c.tag+" %d", &c.count)
	}
	if err != nil {
		c.outcome, c.err = wrong, fmt.Errorf("the answer is %q: %w", text, err)
	}
}

// together has each of some members make a call at the same time. The function
// that it returns waits for the calls.
func (c *crew) together(members []*member, what func(i int) order) (wait func() []*call) {
	calls := make([]*call, len(members))
	var group sync.WaitGroup
	for i, m := range members {
		group.Go(func() { calls[i] = m.do(c.t.Context(), what(i)) })
	}
	return func() []*call {
		group.Wait()
		return calls
	}
}

// made returns the calls that were made so far and have ended.
func (c *crew) made() []*call {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.calls)
}

// ownedBy are the members whose sessions a worker owned when locate looked.
func (c *crew) ownedBy(w *cluster.Worker) []*member {
	var list []*member
	for _, m := range c.members {
		if m.owner == w.Name {
			list = append(list, m)
		}
	}
	return list
}

// leave ends every session with a DELETE at one of the targets, except those for
// which over says that there is none any more.
func (c *crew) leave(over func(*member) bool) {
	c.t.Helper()
	targets := *c.targets.Load()
	errs := side(len(c.members), 32, func(i int) error {
		if m := c.members[i]; over == nil || !over(m) {
			return m.session.Close(c.t.Context(), targets[i%len(targets)].URL(c.gateway))
		}
		return nil
	})
	if len(errs) > 0 {
		c.t.Errorf("%d of %d sessions could not be closed, among them: %v", len(errs), len(c.members), errs[0])
	}
}

// someWorker stands for a worker where it does not matter which.
var someWorker = &cluster.Worker{Process: &cluster.Process{Name: "some worker"}}
