package linear

import (
	"context"
	"encoding/json"
	"fmt"
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
	revision int64
}

// moment is the store at one revision.
type moment struct {
	sessions     map[string]entry
	members      map[owner]bool
	condemned    map[owner]bool
	incarnations map[string]owner // by worker; empty once it left
	met          map[owner]bool   // has been a member before
}

func firstMoment() *moment {
	return &moment{map[string]entry{}, map[owner]bool{}, map[owner]bool{}, map[string]owner{}, map[owner]bool{}}
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
		current, err := incarnationOf(name, c)
		if err != nil {
			return err
		}
		m.incarnations[name] = current
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

// incarnationOf returns the incarnation that a worker has as of a change.
func incarnationOf(worker string, c change) (owner, error) {
	if c.Deleted {
		return "", nil
	}
	var v struct {
		Incarnation int64 `json:"incarnation"`
		Left        bool  `json:"left"`
	}
	if err := json.Unmarshal(c.Value, &v); err != nil {
		return "", fmt.Errorf("revision %d: %s: %w", c.Revision, c.Key, err)
	}
	switch {
	case v.Left:
		return "", nil
	case v.Incarnation == 0:
		v.Incarnation = c.Revision
	}
	return ownerOf(worker, v.Incarnation), nil
}

func entryOf(c change) (entry, error) {
	r, err := recordOf(c.Value)
	if err != nil {
		return entry{}, fmt.Errorf("revision %d: %s: %w", c.Revision, c.Key, err)
	}
	return entry{ownerOf(r.GetWorker(), r.GetIncarnation()), r.GetEpoch(), r.GetEnd() != nil, c.Revision}, nil
}

func recordOf(value []byte) (*leaseholdv1.SessionRecord, error) {
	r := &leaseholdv1.SessionRecord{}
	return r, proto.Unmarshal(value, r)
}
