package linear

import (
	"fmt"

	"github.com/anishathalye/porcupine"
)

// The states of a session.
const (
	absent = iota
	owned
	ended
)

// state is all that a session's operations depend on. A revision of 0 is one
// that nobody has been told yet. An absent session has a worker once that has used it
// without a record.
type state struct {
	phase       int
	worker      string
	incarnation int64
	epoch       uint64
	revision    int64
}

// by reports whether this incarnation of a worker owns the session.
func (s state) by(worker string, incarnation int64) bool {
	return s.phase == owned && s.worker == worker && s.incarnation == incarnation
}

// at reports whether the state can have that revision.
func (s state) at(revision int64) bool { return s.revision == 0 || s.revision == revision }

// bound is the state, whose revision is known now.
func (s state) bound(revision int64) state {
	s.revision = revision
	return s
}

// model is what a session is supposed to be: a register with one owner, which
// only changes as the rules of ownership say. Who is alive is not part of it:
// that is for the store's own history to tell.
var model = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{state{}} },
	Step: func(s, in, _ any) []any {
		var next []any
		for _, n := range step(s.(state), in.(operation)) {
			next = append(next, n)
		}
		return next
	},
	DescribeOperation: func(in, _ any) string { return in.(operation).String() },
	DescribeState:     func(s any) string { return s.(state).String() },
}).ToModel()

// unusedBut reports whether no other worker uses a session that is absent.
func (s state) unusedBut(worker string) bool {
	return s.phase == absent && (s.worker == "" || s.worker == worker)
}

// to reports whether the next owner of a hand-over has the session.
func (s state) to(op operation) bool { return s.by(op.To, op.ToIncarnation) }

// handedOver is the state that a hand-over leaves; the next owner may be the same, in
// which case nothing but the revision changes.
func (s state) handedOver(op operation, revision int64) state {
	epoch := s.epoch
	if op.To != op.Worker || op.ToIncarnation != op.Incarnation {
		epoch++
	}
	return state{owned, op.To, op.ToIncarnation, epoch, revision}
}

// step returns the states that an operation may leave behind, none if it cannot
// have ended as it did.
func step(s state, op operation) []state {
	switch {
	case op.Method == dispatch && s.phase == absent && op.Unrecorded:
		return only(state{worker: op.Worker}, s.unusedBut(op.Worker))
	case op.Method == dispatch:
		return only(s, s.phase == owned && s.worker == op.Worker)
	case op.Outcome == unknown:
		return append(perhaps(s, op), s)
	case op.Outcome == done:
		return carried(s, op)
	}
	if op.Method == resolve && op.Outcome == "SESSION_NOT_FOUND" && op.Worker != "" {
		return only(state{phase: ended}, s.phase == absent) // it put a tombstone
	}
	return only(s, refusable(s, op))
}

func only(s state, allowed bool) []state {
	if allowed {
		return []state{s}
	}
	return nil
}

// carried returns what is left by an operation that was carried out, or had been
// before and is only confirmed.
func carried(s state, op operation) []state {
	got := op.Got
	switch op.Method {
	case claim:
		if s.phase == absent {
			return only(state{owned, op.Worker, op.Incarnation, 1, got.Revision}, s.unusedBut(op.Worker))
		}
		return only(s.bound(got.Revision), s.by(op.Worker, op.Incarnation) && s.epoch == 1 && s.at(got.Revision))
	case reclaim:
		if s.by(op.Worker, op.Incarnation) {
			return only(s.bound(got.Revision), s.epoch == got.Epoch && s.at(got.Revision))
		}
		return only(state{owned, op.Worker, op.Incarnation, s.epoch + 1, got.Revision},
			s.phase == owned && s.at(op.Revision) && got.Epoch == s.epoch+1)
	case handOver:
		before := only(s.bound(got.Revision), s.to(op) && s.epoch == got.Epoch && s.at(got.Revision))
		after := s.handedOver(op, got.Revision)
		return append(before, only(after, s.by(op.Worker, op.Incarnation) && s.at(op.Revision) && after.epoch == got.Epoch)...)
	case save:
		return only(s.bound(got.Revision), s.by(op.Worker, op.Incarnation) && s.epoch == op.Epoch && (s.at(op.Revision) || s.at(got.Revision)))
	case end:
		if s.phase == ended {
			return only(s.bound(got.Revision), s.at(got.Revision))
		}
		return only(state{phase: ended, revision: got.Revision}, s.phase == absent || s.by(op.Worker, op.Incarnation))
	case resolve:
		switch {
		case got.Ended:
			return only(s.bound(got.Revision), s.phase == ended && s.at(got.Revision))
		case got.Worker == "": // the one who opened it is alive, and may have it
			return only(s, s.phase == absent)
		}
		return only(s.bound(got.Revision), s.by(got.Worker, got.Incarnation) && s.epoch == got.Epoch && s.at(got.Revision))
	}
	return nil
}

// perhaps returns what an operation with an unknown outcome leaves if it is
// carried out now.
func perhaps(s state, op operation) []state {
	switch op.Method {
	case claim:
		return only(state{owned, op.Worker, op.Incarnation, 1, 0}, s.unusedBut(op.Worker))
	case reclaim:
		return only(state{owned, op.Worker, op.Incarnation, s.epoch + 1, 0},
			s.phase == owned && !s.by(op.Worker, op.Incarnation) && s.at(op.Revision))
	case handOver:
		return only(s.handedOver(op, 0), s.by(op.Worker, op.Incarnation) && s.at(op.Revision))
	case resolve:
		return only(state{phase: ended}, s.phase == absent && op.Worker != "")
	case save:
		return only(s.bound(0), s.by(op.Worker, op.Incarnation) && s.epoch == op.Epoch && s.at(op.Revision))
	case end:
		return only(state{phase: ended}, s.phase == absent || s.by(op.Worker, op.Incarnation))
	}
	return nil
}

// refusable reports whether the refusal that an operation met can be true.
func refusable(s state, op operation) bool {
	switch op.Outcome {
	case "ENDED":
		return s.phase == ended
	case "SESSION_NOT_FOUND":
		return s.phase == absent
	case "HELD":
		return s.phase == owned
	case "OWNER_ALIVE":
		return s.phase == owned && !s.by(op.Worker, op.Incarnation)
	case "OWNER_UNCERTAIN", holding:
		return s.phase == owned && !s.by(op.Worker, op.Incarnation) || op.Method == resolve && s.phase == absent
	case "STALE":
		return s.phase == owned || op.Method != reclaim && s.phase == absent
	case "TARGET_NOT_ALIVE":
		return s.phase == owned && !s.to(op)
	case "NOT_ALIVE":
		return s.phase == owned || op.Method == claim && s.phase == absent
	}
	return false
}

func (s state) String() string {
	switch s.phase {
	case absent:
		return "absent"
	case ended:
		return fmt.Sprintf("ended at %d", s.revision)
	}
	return fmt.Sprintf("%.4s/%d epoch %d at %d", s.worker, s.incarnation, s.epoch, s.revision)
}

func (op operation) String() string {
	late := ""
	if op.Late {
		late = " (late)"
	}
	switch op.Method {
	case dispatch:
		return fmt.Sprintf("%s dispatched %s", op.Process, op.Request)
	case resolve:
		return fmt.Sprintf("%s Resolve: %s %+v", op.Process, op.Outcome, op.Got)
	case handOver:
		return fmt.Sprintf("%s%s HandOver by %.4s/%d of revision %d to %.4s/%d: %s %+v", op.Process, late, op.Worker, op.Incarnation, op.Revision,
			op.To, op.ToIncarnation, op.Outcome, op.Got)
	}
	return fmt.Sprintf("%s%s %s by %.4s/%d of revision %d: %s %+v", op.Process, late, op.Method, op.Worker, op.Incarnation, op.Revision, op.Outcome, op.Got)
}
