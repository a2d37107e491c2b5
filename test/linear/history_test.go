package linear

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// root is where the store's keys are; those that tests put begin like it, so
// that one watch sees both.
const root = "/leasehold/v1/"

// change is one key that changed at a revision.
type change struct {
	Revision int64  `json:"revision"`
	Key      string `json:"key"`
	// Deleted says that the key is gone since.
	Deleted bool `json:"deleted,omitempty"`
	// Value is the new value.
	Value []byte `json:"value,omitempty"`
}

// history returns every change since the store's first revision, in order.
func history(ctx context.Context, store *clientv3.Client) ([]change, error) {
	const last = "/leasehold/test/last"
	put, err := store.Put(ctx, last, "")
	if err != nil {
		return nil, fmt.Errorf("put %s: %w", last, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var changes []change
	for resp := range store.Watch(clientv3.WithRequireLeader(ctx), "/leasehold/", clientv3.WithPrefix(), clientv3.WithRev(1)) {
		if err := resp.Err(); err != nil {
			return nil, fmt.Errorf("read history: %w", err)
		}
		for _, e := range resp.Events {
			if e.Kv.ModRevision == put.Header.Revision {
				return changes, nil
			}
			changes = append(changes, change{e.Kv.ModRevision, string(e.Kv.Key), e.Type == mvccpb.Event_DELETE, e.Kv.Value})
		}
	}
	return nil, fmt.Errorf("read history: %w", ctx.Err())
}

// owner is an incarnation of a worker, as keys name it: worker/incarnation.
type owner string

func ownerOf(worker string, incarnation int64) owner {
	return owner(worker + "/" + strconv.FormatInt(incarnation, 10))
}

// entry is a session's record in the store.
type entry struct {
	owner    owner
	epoch    uint64
	ended    bool
	handed   bool // the owner has it from the one before
	revision int64
}

// moment is the store at one revision.
type moment struct {
	sessions     map[string]entry
	members      map[owner]bool
	condemned    map[owner]bool
	incarnations map[string]owner  // by worker; empty once it left
	knows        map[owner][]owner // whom it asks before it serves on
	met          map[owner]bool    // has been a member before
}

func firstMoment() *moment {
	return &moment{map[string]entry{}, map[owner]bool{}, map[owner]bool{}, map[string]owner{}, map[owner][]owner{}, map[owner]bool{}}
}

// superseded reports whether an incarnation can never act again.
func (m *moment) superseded(who owner) bool {
	worker, _, _ := strings.Cut(string(who), "/")
	return m.incarnations[worker] != who
}

// takeable reports whether taker may take over from a dead owner: that can certainly not
// serve on, or asks taker before it does.
func (m *moment) takeable(from, taker owner) bool {
	return m.superseded(from) || len(m.knows[from]) == 0 || slices.Contains(m.knows[from], taker) ||
		slices.ContainsFunc(m.knows[from], m.superseded)
}

// apply takes one change in.
func (m *moment) apply(c change) error {
	kind, name, _ := strings.Cut(strings.TrimPrefix(c.Key, root), "/")
	switch kind {
	case "members":
		set(m.members, owner(name), !c.Deleted)
		m.met[owner(name)] = true
	case "condemned":
		set(m.condemned, owner(name), !c.Deleted)
	case "incarnations":
		current, known, err := incarnationOf(name, c)
		if err != nil {
			return err
		}
		m.incarnations[name], m.knows[current] = current, known
	case "sessions":
		if c.Deleted {
			delete(m.sessions, name)
			return nil
		}
		e, err := entryOf(c)
		if err != nil {
			return err
		}
		m.sessions[name] = e
	}
	return nil
}

func set(all map[owner]bool, who owner, in bool) {
	if !in {
		delete(all, who)
		return
	}
	all[who] = true
}

// incarnationOf returns the incarnation that a worker has as of a change, and whom it
// knows.
func incarnationOf(worker string, c change) (current owner, knows []owner, err error) {
	if c.Deleted {
		return "", nil, nil
	}
	var v struct {
		Incarnation int64   `json:"incarnation"`
		Left        bool    `json:"left"`
		Peers       []owner `json:"peers"`
	}
	if err := json.Unmarshal(c.Value, &v); err != nil {
		return "", nil, fmt.Errorf("revision %d: %s: %w", c.Revision, c.Key, err)
	}
	switch {
	case v.Left:
		return "", nil, nil
	case v.Incarnation == 0:
		v.Incarnation = c.Revision
	}
	return ownerOf(worker, v.Incarnation), v.Peers, nil
}

func entryOf(c change) (entry, error) {
	r, err := recordOf(c.Value)
	if err != nil {
		return entry{}, fmt.Errorf("revision %d: %s: %w", c.Revision, c.Key, err)
	}
	e := entry{owner: ownerOf(r.GetWorker(), r.GetIncarnation()), epoch: r.GetEpoch(), ended: r.GetEnd() != nil, revision: c.Revision}
	if n := len(r.GetEvents()); n > 0 {
		e.handed = r.GetEvents()[n-1].GetType() == leaseholdv1.SessionEventType_SESSION_EVENT_TYPE_HANDED_OVER
	}
	return e, nil
}

func recordOf(value []byte) (*leaseholdv1.SessionRecord, error) {
	r := &leaseholdv1.SessionRecord{}
	return r, proto.Unmarshal(value, r)
}
