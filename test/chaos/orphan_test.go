package chaos

import (
	"context"
	"fmt"
	"testing"
	"time"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
	"github.com/leasehold/leasehold/test/internal/cluster"
)

// collection is how long after its idle timeout a session may be left at its
// upstream that nobody asked for after its owner's death.
const collection = 15 * time.Second

func TestOrphansThatNobodyAsksForAreEnded(t *testing.T) {
	const sessions, idle = 60, 4 * time.Second
	w := start(t, usual)
	w.serve("orphan", w.ledger.URL(), "", fmt.Sprintf("idle_timeout: %s", idle))
	victim := w.pick()
	w.settle() // which takes longer than a session may be idle
	crew := enlist(t, "orphan", []*cluster.Worker{victim}, sessions)
	w.expect(crew.together(crew.members, func(int) order { return order{} })(), nil)
	killed := kill(victim)
	if r, err := w.ledger.Summary(t.Context()); err != nil || len(r.Live) != sessions {
		t.Fatalf("right after the kill the upstream has %d sessions, %v; want %d", len(r.Live), err, sessions)
	}
	w.eventually(idle+collection, func(ctx context.Context) error {
		r, err := w.ledger.Summary(ctx)
		if err == nil && len(r.Live) > 0 {
			err = fmt.Errorf("the upstream still has %d of %d sessions", len(r.Live), sessions)
		}
		return err
	})
	t.Logf("%d orphans with an idle timeout of %v were ended %v after the kill", sessions, idle,
		time.Since(killed.end).Round(time.Millisecond))
	crew.target(w.Others(victim)...)
	w.want("orphans that were ended", crew.together(crew.members, func(int) order { return order{} })(), gone)
	w.eventually(5*time.Second, func(ctx context.Context) error {
		s, err := w.Session(ctx, "orphan", crew.members[0].session.ID)
		if got, want := s.GetEnd().GetReason(), leaseholdv1.EndReason_END_REASON_IDLE; err == nil && got != want {
			err = fmt.Errorf("the session ended for %v, want %v", got, want)
		}
		return err
	})
	w.audit(crew, book{killed: map[int]span{victim.PID: killed}})
	w.leave(crew, func(*member) bool { return true })
}
