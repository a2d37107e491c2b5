package publish

import (
	"cmp"
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// maxPart is how large a message gets: 1 MiB, less room for its own fields.
const maxPart = 1<<20 - 64

func memberList(members *store.Table[store.MemberKey, store.Member]) *leaseholdv1.MemberList {
	list := &leaseholdv1.MemberList{}
	for _, m := range store.Newest(members) {
		list.Members = append(list.Members, m.Proto())
	}
	return list
}

func endingList(endings *store.Table[store.EndingKey, *leaseholdv1.Ending]) *leaseholdv1.EndingList {
	keys := slices.SortedFunc(maps.Keys(endings.Entries), func(a, b store.EndingKey) int {
		return cmp.Or(cmp.Compare(a.Gateway, b.Gateway), cmp.Compare(a.Session, b.Session))
	})
	list := &leaseholdv1.EndingList{}
	for _, key := range keys {
		list.Endings = append(list.Endings, endings.Entries[key])
	}
	return list
}

// parts returns the messages that bring a stream from sent to now: the complete
// state if nothing was sent, no message if nothing visible changed.
func parts(sent, now *state) []*leaseholdv1.WatchResponse {
	p := packer{revision: now.snap.Revision, complete: sent == nil}
	if sent == nil {
		sent = &state{snap: &store.Snapshot{}}
		p.begin()
	}
	p.gateways(sent.snap.Gateways, now.snap.Gateways)
	p.kept(sent.snap.Unusable, now.snap)
	if now.members != sent.members {
		p.room(now.members).Members = now.members
	}
	if now.ring != sent.ring {
		p.room(now.ring).KeyRing = now.ring
	}
	if now.endings != sent.endings {
		p.room(now.endings).Endings = now.endings
	}
	return p.finish()
}

// packer fills messages up to maxPart.
type packer struct {
	revision int64
	complete bool
	messages []*leaseholdv1.WatchResponse
	size     int // of the last message
}

func (p *packer) begin() *leaseholdv1.WatchResponse {
	msg := &leaseholdv1.WatchResponse{Revision: p.revision, Complete: p.complete}
	p.messages, p.size = append(p.messages, msg), 0
	return msg
}

// room returns a message that has room for m.
func (p *packer) room(m proto.Message) *leaseholdv1.WatchResponse {
	return p.take(proto.Size(m))
}

func (p *packer) take(size int) *leaseholdv1.WatchResponse {
	size = 1 + protowire.SizeBytes(size)
	if len(p.messages) == 0 || p.size > 0 && p.size+size > maxPart {
		p.begin()
	}
	p.size += size
	return p.messages[len(p.messages)-1]
}

func (p *packer) gateways(sent, now *store.Table[string, *leaseholdv1.Gateway]) {
	if sent == now {
		return
	}
	if sent == nil {
		sent = &store.Table[string, *leaseholdv1.Gateway]{}
	}
	// There may be many, and few that changed: only those are sorted.
	var changed, removed []string
	for id, g := range now.Entries {
		if old := sent.Entries[id]; old == nil || old.Status.Revision != g.Status.Revision {
			changed = append(changed, id)
		}
	}
	for id := range sent.Entries {
		if now.Entries[id] == nil {
			removed = append(removed, id)
		}
	}
	slices.Sort(changed)
	slices.Sort(removed)
	for _, id := range changed {
		msg := p.room(now.Entries[id])
		msg.Gateways = append(msg.Gateways, now.Entries[id])
	}
	for _, id := range removed {
		name := gateway.Name(id)
		msg := p.take(len(name))
		msg.RemovedGateways = append(msg.RemovedGateways, name)
	}
}

// kept names, in a complete state, the gateways that workers keep as they have them,
// and after that those of them that are gone.
func (p *packer) kept(sent *store.Table[string, string], now *store.Snapshot) {
	if p.complete && now.Unusable != nil {
		for _, id := range slices.Sorted(maps.Keys(now.Unusable.Entries)) {
			name := gateway.Name(id)
			msg := p.take(len(name))
			msg.KeptGateways = append(msg.KeptGateways, name)
		}
	}
	if sent == nil || sent == now.Unusable {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(sent.Entries)) {
		if _, still := now.Unusable.Entries[id]; !still && now.Gateways.Entries[id] == nil {
			name := gateway.Name(id)
			msg := p.take(len(name))
			msg.RemovedGateways = append(msg.RemovedGateways, name)
		}
	}
}

func (p *packer) finish() []*leaseholdv1.WatchResponse {
	for i := range len(p.messages) - 1 {
		p.messages[i].More = true
	}
	return p.messages
}
