package config

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	// applyingFile is where it is said which definitions are being applied.
	applyingFile = "config.applying"
	// maxApplyingFile bounds the file.
	maxApplyingFile = 1 << 20
	// maxApplying bounds the definitions that can be told to be the cause of a crash.
	// When more of them are new at once, a crash says nothing about any.
	maxApplying = 100
	// settledAfter is how long a definition is served before a crash is not its doing.
	settledAfter = 10 * time.Second
)

const crashed = "the worker crashed when it applied the definition; its log has the stack"

// Quarantine keeps a worker from crashing twice by the same definition. It leaves on
// disk which definitions are new, before they are applied and until they have been
// served for 10 s. When the worker is started after a crash, it does not apply those
// again: they are rejected, and what was served before them serves on, until they
// are written anew. Safe for concurrent use, but for Compile.
type Quarantine struct {
	path string
	log  hclog.Logger
	wake chan struct{} // capacity 1

	writing sync.Mutex // orders the writing of the file

	mu       sync.Mutex           // guards what follows
	applying map[string]*applying // by the gateway's id
	poisoned map[string]int64     // revisions of definitions, by the gateway's id
	full     bool                 // it was said that there are too many
}

// applying is a definition that is new.
type applying struct {
	revision int64
	since    time.Time
	before   *leaseholdv1.Gateway // what was served before; nil for nothing
}

// marks is the content of the file.
type marks struct {
	Applying    map[string]int64 `json:"applying,omitempty"`
	Quarantined map[string]int64 `json:"quarantined,omitempty"`
}

// NewQuarantine returns the quarantine of a worker whose data directory is dir. crash is
// what the Go runtime said when the process before this one crashed; empty if it did
// not, or was killed from outside, which says nothing of definitions.
func NewQuarantine(dir, crash string, log hclog.Logger) *Quarantine {
	q := &Quarantine{path: filepath.Join(dir, applyingFile), log: log, wake: make(chan struct{}, 1),
		applying: make(map[string]*applying), poisoned: make(map[string]int64)}
	left, err := readMarks(q.path)
	if err != nil {
		log.Warn("it is not known which definitions the worker before was applying", "error", err)
	}
	maps.Copy(q.poisoned, left.Quarantined)
	if crash != "" && len(left.Applying) > 0 {
		maps.Copy(q.poisoned, left.Applying)
		log.Error("the worker before this one crashed while it applied definitions; they are not applied until they are written anew",
			"gateways", slices.Sorted(maps.Keys(left.Applying)), "crash", crash)
	}
	if len(left.Applying) > 0 {
		q.write()
	}
	return q
}

func readMarks(path string) (m marks, err error) {
	content, err := readAtMost(path, maxApplyingFile)
	if errors.Is(err, fs.ErrNotExist) {
		return marks{}, nil
	}
	if err == nil {
		err = json.Unmarshal(content, &m)
	}
	if err != nil {
		return marks{}, err
	}
	return m, nil
}

// Compile is the function Compile, but definitions in quarantine are rejected, and it is on disk
// which ones are new before they are compiled.
func (q *Quarantine) Compile(state *State, previous *Snapshot) (*Snapshot, error) {
	if state.Revision < previous.Revision {
		previous = empty // of another store
	}
	if q.begin(state, previous) {
		q.write()
	}
	next, err := compile(state, previous, q.rejects)
	if err == nil && q.forget(next.Rejections) {
		q.write()
	}
	return next, err
}

// Recall makes a snapshot of a state that was on disk, where definitions in quarantine
// are as they were before.
func (q *Quarantine) Recall(kept *State) (*Snapshot, error) {
	earlier, err := Compile(&State{Revision: kept.Revision, Gateways: kept.Earlier}, empty)
	if err != nil {
		return nil, err
	}
	return compile(kept, earlier, q.rejects)
}

// Kept returns a state as it is to be kept on disk: with the definitions that are
// served by s, and those that were before them, as long as one may have to go back.
func (q *Quarantine) Kept(state *State, s *Snapshot) *State {
	kept := *state
	kept.Gateways = s.definitions
	q.mu.Lock()
	defer q.mu.Unlock()
	for id, a := range q.applying {
		if a.before == nil {
			continue
		}
		if kept.Earlier == nil {
			kept.Earlier = make(map[string]*leaseholdv1.Gateway)
		}
		kept.Earlier["gateways/"+id] = a.before
	}
	return &kept
}

// Run forgets definitions that have been served for long enough, until ctx ends.
func (q *Quarantine) Run(ctx context.Context) error {
	timer := time.NewTimer(settledAfter)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			q.settle(true) // the process ends in good order
			return nil
		case <-q.wake:
		case <-timer.C:
		}
		timer.Reset(q.settle(false))
	}
}

// rejects is a reject.
func (q *Quarantine) rejects(id string, revision int64) (reason string, rejected bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	poisoned, ok := q.poisoned[id]
	return crashed, ok && poisoned == revision
}

// begin notes the definitions of a state that are new, and reports whether there is
// anything to write.
func (q *Quarantine) begin(state *State, previous *Snapshot) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	changed := q.releaseLocked(state)
	var fresh []string
	for name, definition := range state.Gateways {
		id := strings.TrimPrefix(name, "gateways/")
		revision := definition.GetStatus().GetRevision()
		if !previous.has(name, definition) && previous.rejected(id, revision) == nil && q.poisoned[id] != revision {
			fresh = append(fresh, name)
		}
	}
	if len(fresh) == 0 {
		return changed
	}
	if full := len(q.applying)+len(fresh) > maxApplying; full {
		if !q.full {
			q.log.Warn("too many definitions are new at once for one of them to be found out by a crash", "new", len(fresh), "bound", maxApplying)
		}
		q.full, fresh = true, nil
	}
	for _, name := range fresh {
		id := strings.TrimPrefix(name, "gateways/")
		before := previous.definitions[name]
		if a := q.applying[id]; a != nil {
			before = a.before // the one that it replaces is not known to be good
		}
		q.applying[id] = &applying{state.Gateways[name].GetStatus().GetRevision(), time.Now(), before}
	}
	select {
	case q.wake <- struct{}{}:
	default: // Run will look
	}
	return true
}

// releaseLocked forgets what is not in the state any more, and reports whether there was anything.
func (q *Quarantine) releaseLocked(state *State) bool {
	n := len(q.poisoned) + len(q.applying)
	maps.DeleteFunc(q.poisoned, func(id string, revision int64) bool {
		return state.Gateways["gateways/"+id].GetStatus().GetRevision() != revision
	})
	maps.DeleteFunc(q.applying, func(id string, _ *applying) bool { return state.Gateways["gateways/"+id] == nil })
	return n != len(q.poisoned)+len(q.applying)
}

// forget forgets definitions that were not applied after all, and reports whether
// there were any.
func (q *Quarantine) forget(rejections []Rejection) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.applying)
	for _, r := range rejections {
		if a := q.applying[r.Gateway]; a != nil && a.revision == r.Revision {
			delete(q.applying, r.Gateway)
		}
	}
	return len(q.applying) < n
}

// settle forgets the definitions that have been served for long enough, or all at
// the end of the process, and returns when to look again.
func (q *Quarantine) settle(all bool) time.Duration {
	if q.settled(all) {
		q.write()
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	next, now := settledAfter, time.Now()
	for _, a := range q.applying {
		next = min(next, a.since.Add(settledAfter).Sub(now))
	}
	return next
}

func (q *Quarantine) settled(all bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	n, now := len(q.applying), time.Now()
	maps.DeleteFunc(q.applying, func(_ string, a *applying) bool { return all || now.Sub(a.since) >= settledAfter })
	if len(q.applying) == n {
		return false
	}
	q.full = false
	return true
}

// write writes the file. It is short, and written only when definitions change.
func (q *Quarantine) write() {
	q.writing.Lock()
	defer q.writing.Unlock()
	content, err := json.Marshal(q.marks())
	if err == nil {
		err = Replace(q.path, content)
	}
	if err != nil {
		q.log.Warn("a definition at which the worker crashes now is applied again when it is restarted", "error", err)
	}
}

func (q *Quarantine) marks() marks {
	q.mu.Lock()
	defer q.mu.Unlock()
	m := marks{Applying: make(map[string]int64, len(q.applying)), Quarantined: maps.Clone(q.poisoned)}
	for id, a := range q.applying {
		m.Applying[id] = a.revision
	}
	return m
}
