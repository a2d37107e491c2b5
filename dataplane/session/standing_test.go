package session

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/leasehold/leasehold/dataplane/replay"
)

// A connection that broke is known to be gone only when something is written on
// it, and by then its client may be back.
func TestAClientThatIsBackBeforeItsEarlierStreamIsGoneGetsEachEventOnce(t *testing.T) {
	log := replay.NewStore(time.Now).New()
	st := &standing{entry: &entry{log: log}}
	st.changed = sync.NewCond(&st.mu)
	say := func(l *listener, number uint64) {
		raw := fmt.Appendf(nil, "%d ", number)
		log.Append(raw)
		l.queue(queued{raw: raw, number: number})
	}
	newListener := func(after uint64) *listener {
		l := &listener{wake: make(chan struct{}, 1)}
		st.attach(l, st.entry, after)
		return l
	}
	told := func(l *listener) (text string) {
		for _, event := range l.pending {
			text += string(event.raw)
		}
		return text
	}
	early := newListener(0)
	say(early, 1)
	say(early, 2)
	taken, _ := st.take(early) // the client reads 1; writing 2 will fail
	say(early, 3)
	back := newListener(1)
	say(back, 4)
	st.detach(early, taken[1:])
	if got, want := told(back), "2 3 4 "; got != want {
		t.Errorf("the client that came back after 1: got %s, want %s", got, want)
	}

	slow := back // another stream of the client's, with 2 to 4 still to come
	late := newListener(4)
	say(late, 5)
	st.detach(slow, nil)
	if got, want := told(late), "5 2 3 4 "; got != want {
		t.Errorf("the stream that went on after 4: got %s, want what the other one was not sent too, %s", got, want)
	}

	older := &entry{log: replay.NewStore(time.Now).New()} // of an earlier stream of the session
	older.log.Append([]byte("a "))
	older.log.Append([]byte("b "))
	from := &listener{wake: make(chan struct{}, 1)}
	st.attach(from, older, 0)
	last := newListener(0)
	before := told(last)
	st.detach(from, nil)
	if got, want := told(last), before+"a b "; got != want {
		t.Errorf("what is of an earlier stream: got %s, want %s", got, want)
	}
}
