package chaos

import (
	"testing"
	"time"
)

func TestRequestWithAnIDInFlightIsRefused(t *testing.T) {
	const pairs = 30
	w := start(t, usual)
	w.serve("twice", w.ledger.URL(), "", "")
	crew := enlist(t, "twice", w.Workers, crewSize)
	w.locate(crew)
	crew.work(crew.members[pairs:], pace)

	// The first goes to each worker in turn, the second to the same one or another.
	members := crew.members[:pairs]
	const id = 1_000_000
	first := crew.together(members, func(i int) order {
		return order{id: id, ms: 3000, at: w.Workers[i%len(w.Workers)]}
	})
	w.running(pairs)
	started := time.Now()
	second := crew.together(members, func(i int) order {
		return order{id: id, at: w.Workers[(i+i/len(w.Workers))%len(w.Workers)]}
	})()
	if took := time.Since(started); took > 2*time.Second {
		t.Errorf("the second requests took %v, so that the first may have been over", took)
	}
	w.expect(first(), nil)
	w.want("the second request with an id that is in flight", second, invalid)
	// Once the first is answered its id can be used again.
	w.expect(crew.together(members, func(int) order { return order{id: id} })(), nil)
	crew.rest()
	w.expect(crew.made(), func(c *call) bool { return c.outcome == invalid })
	w.audit(crew, book{})
	w.leave(crew, nil)
}
