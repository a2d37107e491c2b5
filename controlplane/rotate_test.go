package controlplane_test

import (
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/controlplane"
	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/keyring"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Whatever a worker that nobody hears of seals with a key, it opens for as long as it
// can be of use.
func TestKeysAreKeptForTheLongestLifeOfASession(t *testing.T) {
	if need := gateway.MaxSessionTime + controlplane.LongestMaxOutage; keyring.Kept <= need {
		t.Errorf("keys are kept for %s, sessions of a worker without contact live until %s after", keyring.Kept, need)
	}
}

func (r *replica) rotate(t testing.TB) *leaseholdv1.SessionKey {
	t.Helper()
	resp, err := leaseholdv1.NewKeyServiceClient(r.conn).RotateSessionKey(testContext(t), &leaseholdv1.RotateSessionKeyRequest{})
	if err != nil {
		t.Error(err)
	}
	return resp.GetKey()
}

func (r *replica) sessionKeys(t testing.TB) []*leaseholdv1.SessionKey {
	t.Helper()
	resp, err := leaseholdv1.NewKeyServiceClient(r.conn).GetSessionKeys(testContext(t), &leaseholdv1.GetSessionKeysRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetKeys()
}

func TestReplicasThatRotateAtOnceMakeOneKey(t *testing.T) {
	server, root := startEtcd(t), writeRootKey(t, "0a")
	cfg := external(server, root)
	cfg.LeaseTTL = time.Minute // nobody renews
	replicas := []*replica{start(t, cfg), start(t, cfg), start(t, cfg)}
	replicas[0].register(t, workerA) // which acknowledges nothing: the key waits
	before := replicas[0].sessionKeys(t)
	made := make([]*leaseholdv1.SessionKey, 12)
	var group sync.WaitGroup
	for i := range made {
		group.Go(func() { made[i] = replicas[i%3].rotate(t) })
	}
	group.Wait()
	for i, key := range made {
		if !proto.Equal(key, made[0]) || key.GetState() != leaseholdv1.SessionKeyState_SESSION_KEY_STATE_WAITING {
			t.Errorf("call %d made %v, call 0 %v; want one key, which waits", i, key, made[0])
		}
	}
	if after := replicas[1].sessionKeys(t); len(before) != 1 || len(after) != 2 {
		t.Errorf("before there were %d keys, after %d; want 1 and 2", len(before), len(after))
	}
}

// sealsWith returns the id of the key that a worker seals with.
func sealsWith(ring *leaseholdv1.KeyRing) string { return string(ring.Keys[len(ring.Keys)-1].Id) }

func hasRing(resp *leaseholdv1.WatchResponse) bool { return resp.KeyRing != nil }

func TestNoWorkerSealsWithAKeyThatALivingOneDoesNotHave(t *testing.T) {
	cfg := embedded(t)
	cfg.LeaseTTL = time.Minute // nobody renews
	r := start(t, cfg)
	a, b := r.register(t, workerA), r.register(t, workerB)
	prompt, lagging := r.watch(t, workerA, a.Incarnation), r.watch(t, workerB, b.Incarnation)
	first := prompt.until(hasRing)
	prompt.ack(first.Revision)
	lagging.ack(lagging.until(hasRing).Revision)

	r.rotate(t)
	waits := prompt.until(hasRing)
	if len(waits.KeyRing.Keys) != 2 || sealsWith(waits.KeyRing) != sealsWith(first.KeyRing) {
		t.Fatalf("a worker is told to seal with a key that was made a moment ago")
	}
	if waits.KeyRing.Revision == 0 || waits.KeyRing.Revision > waits.Revision {
		t.Errorf("the ring's revision is %d, in a state of %d", waits.KeyRing.Revision, waits.Revision)
	}
	prompt.ack(waits.Revision)
	late := r.register(t, workerC) // and counts, though it came after the key
	held := func(who string) {
		t.Helper()
		for end := time.Now().Add(2500 * time.Millisecond); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
			if keys := r.sessionKeys(t); keys[1].State != leaseholdv1.SessionKeyState_SESSION_KEY_STATE_WAITING {
				t.Fatalf("the key is %s while %s does not have it", keys[1].State, who)
			}
		}
	}
	held("one worker")
	lagging.ack(lagging.until(hasRing).Revision)
	held("a newcomer")
	newcomer := r.watch(t, workerC, late.Incarnation)
	state := newcomer.until(hasRing)
	if len(state.KeyRing.Keys) != 2 {
		t.Errorf("a newcomer's first state has %d keys, want 2", len(state.KeyRing.Keys))
	}
	newcomer.ack(state.Revision)

	promoted := prompt.until(hasRing)
	if sealsWith(promoted.KeyRing) == sealsWith(first.KeyRing) {
		t.Errorf("once every worker has the key, it does not seal")
	}
	revision, err := r.control.GetKeyRingRevision(testContext(t), &leaseholdv1.GetKeyRingRevisionRequest{})
	if err != nil || revision.Revision != promoted.KeyRing.Revision {
		t.Errorf("the newest ring is said to be of revision %d, %v; want %d", revision.GetRevision(), err, promoted.KeyRing.Revision)
	}
	if keys := r.sessionKeys(t); keys[0].RetireTime != nil {
		t.Error("the former key is retired while workers may still seal with it")
	}
	for worker, w := range map[*watching]*leaseholdv1.WatchResponse{prompt: promoted, lagging: nil, newcomer: nil} {
		if w == nil {
			w = worker.until(hasRing)
		}
		worker.ack(w.Revision)
	}
	prompt.until(hasRing)
	if keys := r.sessionKeys(t); keys[0].RetireTime == nil || !keys[0].ExpireTime.AsTime().Equal(keys[0].RetireTime.AsTime().Add(keyring.Kept)) {
		t.Errorf("the former key is %v, want it retired and removed %s later", keys[0], keyring.Kept)
	}
}
