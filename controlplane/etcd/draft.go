package etcd

import (
	"errors"
	"fmt"
	"maps"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// draft is a snapshot in the making. It copies a table before the first change.
type draft struct {
	store    *Store
	before   *store.Snapshot
	gateways table[string, *leaseholdv1.Gateway]
	unusable table[string, string]
	members  table[store.MemberKey, store.Member]
	endings  table[store.EndingKey, *leaseholdv1.Ending]
	ring     *store.SealedRing
}

func newDraft(s *Store, before *store.Snapshot) *draft {
	if before == nil {
		before = &store.Snapshot{}
	}
	return &draft{
		store:    s,
		before:   before,
		gateways: newTable(before.Gateways),
		unusable: newTable(before.Unusable),
		members:  newTable(before.Members),
		endings:  newTable(before.Endings),
		ring:     before.Ring,
	}
}

// reset forgets everything, for a state that is read as a whole.
func (d *draft) reset() {
	d.gateways.entries, d.gateways.copied = map[string]*leaseholdv1.Gateway{}, true
	d.unusable.entries, d.unusable.copied = map[string]string{}, true
	d.members.entries, d.members.copied = map[store.MemberKey]store.Member{}, true
	d.endings.entries, d.endings.copied = map[store.EndingKey]*leaseholdv1.Ending{}, true
	d.ring = nil
}

func (d *draft) put(kv *mvccpb.KeyValue) {
	key := string(kv.Key)
	var err error
	switch {
	case strings.HasPrefix(key, gatewaysPrefix):
		err = d.putGateway(kv)
	case strings.HasPrefix(key, membersPrefix):
		var m store.Member
		if m, err = decodeMember(kv); err == nil {
			d.members.put(m.MemberKey, m)
		}
	case strings.HasPrefix(key, endingsPrefix):
		err = d.putEnding(kv)
	case key == RingKey:
		d.ring = &store.SealedRing{Revision: kv.ModRevision, Sealed: kv.Value}
	}
	if err != nil {
		d.store.log.Error("cannot use what etcd holds", "key", key, "error", err)
	}
}

// putGateway checks a definition again on its way out. One that is not valid, or
// whose secrets cannot be opened, does not reach the workers: the last one that could
// be used stays, and if none is known, it is among those that workers keep.
func (d *draft) putGateway(kv *mvccpb.KeyValue) error {
	id := strings.TrimPrefix(string(kv.Key), gatewaysPrefix)
	if d.before.Gateways != nil {
		if last := d.before.Gateways.Entries[id]; last != nil && last.Status.Revision == kv.ModRevision {
			d.gateways.put(id, last) // it has not changed since it could be used
			return nil
		}
	}
	g, err := d.usable(id, kv)
	if err == nil {
		g.Etag = ""
		d.gateways.put(id, g)
		d.unusable.drop(id)
		return nil
	}
	if d.before.Gateways != nil {
		if last, ok := d.before.Gateways.Entries[id]; ok {
			d.gateways.put(id, last)
			return err
		}
	}
	d.unusable.put(id, err.Error())
	return err
}

func (d *draft) usable(id string, kv *mvccpb.KeyValue) (*leaseholdv1.Gateway, error) {
	g, err := d.store.decodeGateway(kv)
	if err != nil {
		return nil, err
	}
	if why := g.Status.Unusable; why != "" {
		return nil, errors.New(why)
	}
	if g.Name != gateway.Name(id) {
		return nil, fmt.Errorf("it names itself %q", g.Name)
	}
	return g, gateway.Validate(g).Err()
}

func (d *draft) putEnding(kv *mvccpb.KeyValue) error {
	key, ok := parseSession(endingsPrefix, string(kv.Key))
	if !ok {
		return errors.New("not a session's key")
	}
	ending := &leaseholdv1.Ending{}
	if err := proto.Unmarshal(kv.Value, ending); err != nil {
		return err
	}
	ending.Gateway, ending.Session = key.Gateway, key.Digest
	d.endings.put(store.EndingKey{Gateway: key.Gateway, Session: key.Digest}, ending)
	return nil
}

func (d *draft) delete(key string) {
	switch {
	case strings.HasPrefix(key, gatewaysPrefix):
		d.gateways.delete(strings.TrimPrefix(key, gatewaysPrefix))
		d.unusable.drop(strings.TrimPrefix(key, gatewaysPrefix))
	case strings.HasPrefix(key, membersPrefix):
		if m, ok := parseMember(membersPrefix, key); ok {
			d.members.delete(m)
		}
	case strings.HasPrefix(key, endingsPrefix):
		if k, ok := parseSession(endingsPrefix, key); ok {
			d.endings.delete(store.EndingKey{Gateway: k.Gateway, Session: k.Digest})
		}
	}
}

// finish returns the snapshot. The tables that have not changed are those of the
// one before.
func (d *draft) finish(revision int64) *store.Snapshot {
	return &store.Snapshot{
		Revision: revision,
		Gateways: d.gateways.finish(d.before.Gateways, func(a, b *leaseholdv1.Gateway) bool { return a.Status.Revision == b.Status.Revision }),
		Unusable: d.unusable.finish(d.before.Unusable, func(a, b string) bool { return a == b }),
		Members:  d.members.finish(d.before.Members, sameMember),
		Endings:  d.endings.finish(d.before.Endings, func(a, b *leaseholdv1.Ending) bool { return a.Reason == b.Reason }),
		Ring:     d.sameRing(),
	}
}

func (d *draft) sameRing() *store.SealedRing {
	if d.ring != nil && d.before.Ring != nil && d.ring.Revision == d.before.Ring.Revision {
		return d.before.Ring
	}
	return d.ring
}

func sameMember(a, b store.Member) bool {
	return a.Ack().Same(b.Ack()) && proto.Equal(a.Info, b.Info)
}

// table is a store.Table in the making.
type table[K comparable, V any] struct {
	entries map[K]V
	copied  bool
}

func newTable[K comparable, V any](before *store.Table[K, V]) table[K, V] {
	if before == nil {
		return table[K, V]{entries: map[K]V{}, copied: true}
	}
	return table[K, V]{entries: before.Entries}
}

func (t *table[K, V]) own() {
	if !t.copied {
		t.entries, t.copied = maps.Clone(t.entries), true
	}
}

func (t *table[K, V]) put(key K, value V) {
	t.own()
	t.entries[key] = value
}

func (t *table[K, V]) delete(key K) {
	t.own()
	delete(t.entries, key)
}

// drop is delete for what is rarely there.
func (t *table[K, V]) drop(key K) {
	if _, ok := t.entries[key]; ok {
		t.delete(key)
	}
}

func (t *table[K, V]) finish(before *store.Table[K, V], same func(a, b V) bool) *store.Table[K, V] {
	if before != nil && (!t.copied || maps.EqualFunc(before.Entries, t.entries, same)) {
		return before
	}
	return &store.Table[K, V]{Entries: t.entries}
}
