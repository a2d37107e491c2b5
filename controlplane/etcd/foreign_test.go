package etcd

import (
	"encoding/json"
	"strconv"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// addForeign adds a field to the JSON value of a key, as a newer replica would.
func addForeign(t *testing.T, s *Store, incarnation int64, key string, opts ...clientv3.OpOption) {
	t.Helper()
	all := fields(t, s, key)
	if all["peer"] == nil { // an incarnation, which every value but the first says
		all["incarnation"] = json.RawMessage(strconv.FormatInt(incarnation, 10))
	}
	all["later"] = json.RawMessage(`{"a":[1]}`)
	text, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Put(testContext(t), key, string(text), opts...); err != nil {
		t.Fatal(err)
	}
}

func fields(t *testing.T, s *Store, key string) map[string]json.RawMessage {
	t.Helper()
	resp, err := s.client.Get(testContext(t), key)
	if err != nil || len(resp.Kvs) != 1 {
		t.Fatalf("%s: got %v, %v", key, resp, err)
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(resp.Kvs[0].Value, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestFieldsOfANewerReplicaStayInWhatWorkersHave(t *testing.T) {
	s := newStore(t)
	w, peer := register(t, s), register(t, s)
	member, incarnation := memberKey(w.id, w.incarnation), incarnationKey(w.id)
	addForeign(t, s, w.incarnation, member, clientv3.WithIgnoreLease())
	addForeign(t, s, w.incarnation, incarnation)
	if err := s.Applied(testContext(t), w.key(), store.Ack{Revision: 7}); err != nil {
		t.Fatal(err)
	}
	if err := s.SetDraining(testContext(t), w.key(), true); err != nil {
		t.Fatal(err)
	}
	if err := s.SetDraining(testContext(t), w.key(), false); err != nil {
		t.Fatal(err)
	}
	if _, err := s.RecordPeers(testContext(t), session.Peer{Worker: w.id, Incarnation: w.incarnation}, 1, []session.Peer{{Worker: peer.id, Incarnation: peer.incarnation}}, nil); err != nil {
		t.Fatal(err)
	}
	m := fields(t, s, member)
	if string(m["later"]) != `{"a":[1]}` || string(m["applied"]) != "7" || m["draining"] != nil {
		t.Errorf("the member has %s, want what was there, applied 7, and no draining", m)
	}
	if i := fields(t, s, incarnation); string(i["later"]) != `{"a":[1]}` || i["peers"] == nil {
		t.Errorf("the incarnation has %s, want what was there and the peers", i)
	}
	if err := s.Leave(testContext(t), w.id, w.incarnation, w.lease); err != nil {
		t.Fatal(err)
	}
	if i := fields(t, s, incarnation); string(i["later"]) != `{"a":[1]}` || i["left"] == nil {
		t.Errorf("after it left, the incarnation has %s, want what was there", i)
	}
}

// later is a field that no version has yet.
func later(text string) []byte {
	return protowire.AppendString(protowire.AppendTag(nil, 2000, protowire.BytesType), text)
}

func TestFieldsOfANewerReplicaStayInAGatewayThatIsUpdated(t *testing.T) {
	s := newStore(t)
	g := define(t, s, "foreign")
	g.ProtoReflect().SetUnknown(later("of the gateway"))
	g.Upstreams[0].ProtoReflect().SetUnknown(later("of the upstream"))
	stored := proto.CloneOf(g)
	stored.Etag, stored.Status = "", nil
	value, err := encodeProto(stored)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.Put(testContext(t), gatewayKey("foreign"), value); err != nil {
		t.Fatal(err)
	}
	_, err = s.UpdateGateway(testContext(t), "foreign", "", func(g *leaseholdv1.Gateway) (*leaseholdv1.Gateway, error) {
		g.Description = "updated"
		return g, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	now, err := s.GetGateway(testContext(t), "foreign")
	if err != nil {
		t.Fatal(err)
	}
	if got := string(now.ProtoReflect().GetUnknown()); got != string(later("of the gateway")) {
		t.Errorf("the gateway has %q, want what was there", got)
	}
	if got := string(now.Upstreams[0].ProtoReflect().GetUnknown()); got != string(later("of the upstream")) || now.Description != "updated" {
		t.Errorf("the upstream has %q, want what was there", got)
	}
}
