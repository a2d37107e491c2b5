package chaos

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/ledger"
)

// book compares what the clients know of their calls with what the upstream wrote
// down. It finds answers and events in a wrong session, calls that were carried
// out twice or not at all, counters that are off, and sessions that were in the
// hands of two processes at a time.
type book struct {
	calls   []*call
	members []*member
	entries []ledger.Entry
	// stopped are processes that were stopped for a while. What they had sent
	// before is answered to them when they go on; nothing else of theirs may
	// overlap with another process's calls.
	stopped map[int]bool
	// wander allows a session to return to a process that it had left.
	wander bool
	// killed are processes that were killed, and when. Whose a connection is
	// cannot be told when its process is gone by the time it is accepted.
	killed map[int]span
	// blind says that the connections to the upstream do not tell whose they are.
	blind bool
	// told are members that listened all the time, where nothing may be missed.
	told []*member
	// lost are times from which the upstream has no record.
	lost []span

	found []string
}

// span is a time from begin to end.
type span struct{ begin, end time.Time }

// problems returns everything that is not as it must be.
func (b *book) problems() []string {
	b.found = nil
	marks := b.byTag()
	for _, c := range b.calls {
		b.checkCall(c, marks[c.tag])
	}
	b.checkSessions(marks)
	for session, entries := range b.bySession() {
		b.checkCounter(session, entries)
		b.checkOwners(session, entries)
	}
	for _, m := range b.members {
		b.checkHeard(m)
	}
	b.checkTold(marks)
	return b.found
}

func (b *book) report(format string, args ...any) {
	b.found = append(b.found, fmt.Sprintf(format, args...))
}

// byTag are the marks that were carried out.
func (b *book) byTag() map[string][]ledger.Entry {
	marks := map[string][]ledger.Entry{}
	for _, e := range b.entries {
		if e.Tag != "" {
			marks[e.Tag] = append(marks[e.Tag], e)
		}
	}
	return marks
}

// bySession are the calls that the upstream saw, in the order of their beginning.
func (b *book) bySession() map[string][]ledger.Entry {
	sessions := map[string][]ledger.Entry{}
	for _, e := range b.entries {
		e.PID = b.whose(e)
		if e.HTTP == "POST" && e.Method != "initialize" && e.Status != 404 {
			sessions[e.Session] = append(sessions[e.Session], e)
		}
	}
	for _, entries := range sessions {
		slices.SortFunc(entries, func(a, b ledger.Entry) int { return a.Time.Compare(b.Time) })
	}
	return sessions
}

// whose is the process that an entry came from.
func (b *book) whose(e ledger.Entry) int {
	for pid, at := range b.killed {
		if e.PID == 0 && !e.Time.Before(at.begin.Add(-time.Second)) && e.Time.Before(at.end.Add(time.Second)) {
			return pid
		}
	}
	return e.PID
}

// checkCall checks that a mark was carried out as often as its outcome says.
func (b *book) checkCall(c *call, marks []ledger.Entry) {
	if c.outcome == wrong {
		b.report("%v", c)
	}
	if !c.marks() {
		return
	}
	n := len(marks)
	switch c.outcome {
	case answered:
		if n == 0 && !b.unrecorded(c) {
			b.report("%v: it was answered, and never reached the upstream", c)
		}
		if n == 1 && marks[0].Count != c.count {
			b.report("%v: the client was told the counter is %d, the upstream wrote down %d", c, c.count, marks[0].Count)
		}
	case unavailable, failed, gone, invalid, refused:
		if n > 0 {
			b.report("%v: the client was told that it was not carried out, the upstream did so %d times", c, n)
		}
	}
	if n > 1 {
		b.report("%v: it was carried out %d times, by the processes %v", c, n, processes(marks))
	}
}

// unrecorded reports whether a call ran at a time of which there is no record.
func (b *book) unrecorded(c *call) bool {
	return slices.ContainsFunc(b.lost, func(s span) bool { return c.end.After(s.begin) && c.begin.Before(s.end) })
}

// checkSessions checks that every client has one upstream session, for itself.
func (b *book) checkSessions(marks map[string][]ledger.Entry) {
	clients, sessions := map[string]string{}, map[string]string{}
	for tag, entries := range marks {
		owner, _, _ := strings.Cut(tag, ".")
		for _, e := range entries {
			if other := clients[e.Session]; other != "" && other != owner {
				b.report("upstream session %s has calls of the clients %s and %s", e.Session, other, owner)
			}
			if other := sessions[owner]; other != "" && other != e.Session && len(b.lost) == 0 {
				b.report("client %s has the upstream sessions %s and %s", owner, other, e.Session)
			}
			clients[e.Session], sessions[owner] = owner, e.Session
		}
	}
	sent := map[string]bool{}
	for _, c := range b.calls {
		sent[c.tag] = true
	}
	for tag := range marks {
		if !sent[tag] {
			b.report("the upstream saw the call %q, which no client made", tag)
		}
	}
}

// checkCounter checks that a session's marks counted 1, 2, 3 and so on.
func (b *book) checkCounter(session string, entries []ledger.Entry) {
	var counts []int64
	for _, e := range entries {
		if e.Tag != "" {
			counts = append(counts, e.Count)
		}
	}
	slices.Sort(counts)
	for i, n := range counts {
		if n != int64(i+1) {
			b.report("upstream session %s: the counter's values are %v", session, counts)
			return
		}
	}
}

// checkOwners checks that a session's calls came from one process at a time.
func (b *book) checkOwners(session string, entries []ledger.Entry) {
	if b.blind {
		return
	}
	last, left := ledger.Entry{}, map[int]bool{}
	ends := map[int]time.Time{} // by process, when its last call was over
	for _, e := range entries {
		for pid, end := range ends {
			if pid != e.PID && end.After(e.Time) && !b.stopped[pid] {
				b.report("upstream session %s: process %d began %s %v before a call of process %d was over",
					session, e.PID, e.Tag, end.Sub(e.Time), pid)
			}
		}
		switch {
		case e.PID == 0:
			b.report("upstream session %s: %s came from a process that is no worker", session, e.Tag)
		case left[e.PID] && !b.wander:
			b.report("upstream session %s: %s came from process %d, from which process %d had taken the session over",
				session, e.Tag, e.PID, last.PID)
		case last.PID != 0 && last.PID != e.PID:
			left[last.PID] = true
		}
		if e.End.After(ends[e.PID]) {
			ends[e.PID] = e.End
		}
		last = e
	}
}

// checkHeard checks that a listener was told its own session's news, each once.
func (b *book) checkHeard(m *member) {
	m.mu.Lock()
	defer m.mu.Unlock()
	own := fmt.Sprintf("%s:%d.", m.crew.name, m.number)
	for tag, n := range m.heard {
		if !strings.HasPrefix(tag, own) {
			b.report("the stream of %s was told %.200q", own, tag)
		}
		if n > 1 {
			b.report("the stream of %s was told %q %d times", own, tag, n)
		}
	}
}

// checkTold checks that those who listened all the time were told of all that was
// carried out and announced.
func (b *book) checkTold(marks map[string][]ledger.Entry) {
	for _, c := range b.calls {
		if !c.announce || len(marks[c.tag]) == 0 || !slices.Contains(b.told, c.member) {
			continue
		}
		c.member.mu.Lock()
		if c.member.heard[c.tag] == 0 {
			b.report("the stream of %s:%d. was never told %q", c.member.crew.name, c.member.number, c.tag)
		}
		c.member.mu.Unlock()
	}
}

// processes are the processes that some calls came from.
func processes(entries []ledger.Entry) []int {
	var pids []int
	for _, e := range entries {
		pids = append(pids, e.PID)
	}
	return pids
}

// The record of one client that made two calls, with nothing wrong in it.
func rightBook() *book {
	m := &member{crew: &crew{name: "g"}, number: 1, heard: map[string]int{"g:1.2": 1}}
	at := time.Now()
	entry := func(tag string, count int64, pid int, from, to time.Duration) ledger.Entry {
		return ledger.Entry{HTTP: "POST", Method: "tools/call", Tool: "mark", Session: "s", Status: 200,
			Tag: tag, Count: count, PID: pid, Time: at.Add(from), End: at.Add(to)}
	}
	return &book{
		members: []*member{m},
		calls: []*call{
			{member: m, tag: "g:1.2", outcome: answered, count: 1, front: someWorker, begin: at, end: at.Add(2)},
			{member: m, tag: "g:1.3", outcome: answered, count: 2, front: someWorker, begin: at, end: at.Add(9)},
		},
		entries: []ledger.Entry{entry("g:1.2", 1, 7, 1, 2), entry("g:1.3", 2, 8, 3, 4)},
	}
}

func TestBookFindsWhatIsWrong(t *testing.T) {
	if found := rightBook().problems(); len(found) > 0 {
		t.Fatalf("nothing is wrong, but the book says %q", found)
	}
	cases := map[string]struct {
		spoil func(*book)
		want  string
	}{
		"carried out twice": {func(b *book) {
			again := b.entries[1]
			again.Count = 3
			b.entries = append(b.entries, again)
		}, "carried out 2 times"},
		"answered for nothing":   {func(b *book) { b.entries = b.entries[:1] }, "never reached the upstream"},
		"carried out after a no": {func(b *book) { b.calls[1].outcome = unavailable }, "told that it was not carried out"},
		"another's counter":      {func(b *book) { b.calls[1].count = 5 }, "the client was told the counter is 5"},
		"a call lost":            {func(b *book) { b.entries[1].Count = 3 }, "the counter's values are [1 3]"},
		"two upstream sessions":  {func(b *book) { b.entries[1].Session = "x" }, "has the upstream sessions"},
		"shared upstream session": {func(b *book) {
			b.entries[1].Tag, b.calls[1].tag = "g:2.3", "g:2.3"
		}, "calls of the clients"},
		"a call of nobody": {func(b *book) { b.calls = b.calls[:1] }, "which no client made"},
		"two owners":       {func(b *book) { b.entries[0].End = b.entries[1].Time.Add(1) }, "before a call of process 7 was over"},
		"a stranger":       {func(b *book) { b.entries[1].PID = 0 }, "no worker"},
		"another's event":  {func(b *book) { b.members[0].heard["g:12.5"] = 1 }, `was told "g:12.5"`},
		"an event never": {func(b *book) {
			b.told, b.calls[1].announce = b.members, true
		}, `never told "g:1.3"`},
		"an event twice":      {func(b *book) { b.members[0].heard["g:1.2"] = 2 }, "2 times"},
		"an answer of others": {func(b *book) { b.calls[1].outcome = wrong }, "wrong answer"},
		"the owner before": {func(b *book) {
			back := b.entries[0]
			back.Tag, back.Count, back.Time, back.End = "g:1.4", 3, back.Time.Add(5), back.Time.Add(6)
			b.entries = append(b.entries, back)
			b.calls = append(b.calls, &call{member: b.members[0], tag: "g:1.4", outcome: unknown, front: someWorker})
		}, "had taken the session over"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			b := rightBook()
			c.spoil(b)
			if found := strings.Join(b.problems(), "\n"); !strings.Contains(found, c.want) {
				t.Errorf("the book says %q, want something with %q", found, c.want)
			}
		})
	}
}
