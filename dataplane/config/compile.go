package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/dataplane/credential"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// maxReason bounds the text of a rejection, in bytes.
const maxReason = 512

// Rejection is a gateway whose newest definition is not served.
type Rejection struct {
	Gateway  string // its id
	Revision int64  // of the definition
	Serving  int64  // the revision of the definition that is served instead; 0 for none
	// Field is the definition's field that is wrong; empty if it is none in particular.
	Field string
	// Reason says what is wrong, and nothing that a definition keeps secret.
	Reason string
	// Quarantined says that the worker crashed when it applied the definition.
	Quarantined bool
	// Stack is where it panicked, if it did while this process ran; for the log.
	Stack string
}

// reject returns why a definition is not served, other than by its own text.
type reject func(id string, revision int64) (reason string, rejected bool)

// Compile makes a snapshot of state. What did not change since previous is taken
// over from it. A gateway that cannot be compiled is rejected: it stays as it was in
// previous, and everything else is as state has it. An error is about the whole; the
// previous snapshot then serves on.
func Compile(state *State, previous *Snapshot) (*Snapshot, error) {
	return compile(state, previous, func(string, int64) (string, bool) { return "", false })
}

func compile(state *State, previous *Snapshot, quarantined reject) (*Snapshot, error) {
	if state.Revision < previous.Revision {
		previous = empty // of another store, whose revisions mean something else
	}
	next := &Snapshot{
		Revision: state.Revision,
		Gateways: make(map[string]*Gateway, len(state.Gateways)),
		Members:  make(map[string]Member, len(state.Members)),
		Ring:     previous.Ring, RingRevision: previous.RingRevision,
		Endings:     state.Endings,
		definitions: state.Gateways,
	}
	next.compileGateways(state, previous, quarantined)
	for _, m := range state.Members {
		info := m.GetInfo()
		next.Members[m.GetWorker()] = Member{m.GetWorker(), m.GetIncarnation(), info.GetPeerAddress(), info.GetZone(), int(info.GetCapacity()), info.GetDraining()}
	}
	next.workers = takers(next.Members)
	if state.KeyRing != nil {
		ring, err := compileRing(state.KeyRing, previous.Ring)
		if err != nil {
			return nil, fmt.Errorf("compile key ring: %w", err)
		}
		next.Ring, next.RingRevision = ring, state.KeyRing.GetRevision()
	}
	return next, nil
}

func (s *Snapshot) compileGateways(state *State, previous *Snapshot, quarantined reject) {
	for name, definition := range state.Gateways {
		id := strings.TrimPrefix(name, "gateways/")
		if previous.has(name, definition) {
			s.Gateways[id] = previous.Gateways[id]
			continue
		}
		gateway, rejection := attempt(id, definition, previous, quarantined)
		if rejection != nil {
			s.keep(name, previous, rejection)
			continue
		}
		s.Gateways[id] = gateway
	}
	slices.SortFunc(s.Rejections, func(a, b Rejection) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.Gateway, b.Gateway))
	})
}

// has reports whether a gateway is served by this definition. That the revision is
// the same says it only within one store.
func (s *Snapshot) has(name string, definition *leaseholdv1.Gateway) bool {
	old := s.definitions[name]
	return old == definition || old.GetStatus().GetRevision() == definition.GetStatus().GetRevision() && proto.Equal(old, definition)
}

// rejected returns why a snapshot does not have a definition, or nil.
func (s *Snapshot) rejected(id string, revision int64) *Rejection {
	for i := range s.Rejections {
		if r := &s.Rejections[i]; r.Gateway == id && r.Revision == revision {
			return r
		}
	}
	return nil
}

// attempt compiles a definition that previous does not have, unless it was rejected
// there, or is in quarantine.
func attempt(id string, definition *leaseholdv1.Gateway, previous *Snapshot, quarantined reject) (*Gateway, *Rejection) {
	revision := definition.GetStatus().GetRevision()
	if again := previous.rejected(id, revision); again != nil {
		return nil, again
	}
	if reason, yes := quarantined(id, revision); yes {
		return nil, &Rejection{Gateway: id, Revision: revision, Reason: reason, Quarantined: true}
	}
	gateway, stack, err := recovered(func() (*Gateway, error) { return compileGateway(id, definition) })
	if err == nil {
		return gateway, nil
	}
	rejection := &Rejection{Gateway: id, Revision: revision, Reason: err.Error(), Quarantined: stack != "", Stack: stack}
	var field *credential.FieldError
	if errors.As(err, &field) {
		rejection.Field, rejection.Reason = field.Field, field.Err.Error()
	}
	rejection.Reason = strings.ToValidUTF8(rejection.Reason[:min(len(rejection.Reason), maxReason)], "")
	return nil, rejection
}

// recovered compiles; a panic is an error, and comes with its stack.
func recovered(compile func() (*Gateway, error)) (gateway *Gateway, stack string, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			gateway, stack = nil, fmt.Sprintf("%v\n%s", cause, debug.Stack())
			err = errors.New("the worker panicked when it compiled the definition; its log has the stack")
		}
	}()
	gateway, err = compile()
	return gateway, "", err
}

// keep rejects a gateway's definition: what served before serves on.
func (s *Snapshot) keep(name string, previous *Snapshot, r *Rejection) {
	if len(s.Rejections) == 0 {
		s.definitions = maps.Clone(s.definitions) // the state's own
	}
	delete(s.definitions, name)
	rejection := *r
	rejection.Serving = 0
	if old := previous.Gateways[r.Gateway]; old != nil {
		s.Gateways[r.Gateway], s.definitions[name] = old, previous.definitions[name]
		rejection.Serving = old.Revision
	}
	s.Rejections = append(s.Rejections, rejection)
}
