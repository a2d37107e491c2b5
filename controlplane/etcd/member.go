package etcd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Register makes worker a member under a new incarnation. The incarnation is the
// revision of the put of incarnations/{worker}; the member key follows under a
// new lease, unless the worker registered again in between.
//
// Calling it again after an unknown outcome makes another incarnation; the
// earlier one owns nothing and dies with its lease.
func (s *Store) Register(ctx context.Context, worker string, info *leaseholdv1.WorkerInfo) (incarnation int64, lease store.Lease, err error) {
	return s.RegisterAs(ctx, worker, "", store.Attempt{}, info)
}

// RegisterAs is Register for a caller with a certificate of that name, which is
// kept with the registration. ErrForeign: the worker registered before, with another
// certificate or without one.
//
// Calling it again for the same attempt makes no other incarnation. A call that comes
// late, after the worker registered by another attempt, is refused with ErrStale: it
// would end an incarnation without its worker's knowing, which could go on to act for
// sessions that everybody may take then.
func (s *Store) RegisterAs(ctx context.Context, worker, certificate string, attempt store.Attempt, info *leaseholdv1.WorkerInfo) (incarnation int64, lease store.Lease, err error) {
	now := time.Now().UTC()
	lease, err = s.grant(ctx, "register")
	if err != nil {
		return 0, store.Lease{}, err
	}
	incarnation, err = s.begin(ctx, worker, attempt.Previous, incarnationValue{Registered: now, Certificate: certificate, Attempt: attempt.Number})
	if err != nil {
		return 0, store.Lease{}, err
	}
	return incarnation, lease, s.join(ctx, worker, incarnation, lease, newMemberValue(info, now))
}

// begin puts incarnations/{worker} in the place of what is read there, if that is the
// incarnation that the worker had before, so that a put that comes late does not end an
// incarnation that began after it. It returns the put's revision.
func (s *Store) begin(ctx context.Context, worker string, previous int64, v incarnationValue) (incarnation int64, err error) {
	key, value := incarnationKey(worker), encode(v)
	read, err := s.get(ctx, "register", key)
	if err != nil {
		return 0, err
	}
	if err := ownOf(v.Certificate, worker, first(read.Kvs)); err != nil {
		return 0, err
	}
	if incarnation, err = s.began(ctx, worker, first(read.Kvs), previous, v.Attempt); incarnation != 0 || err != nil {
		return incarnation, err
	}
	resp, err := s.txn(ctx, "register",
		[]clientv3.Cmp{unchanged(key, modRevision(first(read.Kvs)))},
		[]clientv3.Op{clientv3.OpPut(key, value)},
		[]clientv3.Op{clientv3.OpGet(key)})
	if err != nil {
		return 0, err
	}
	if resp.Succeeded {
		return resp.Header.Revision, nil
	}
	if there := first(resp.Responses[0].GetResponseRange().Kvs); there != nil && string(there.Value) == value {
		return there.ModRevision, nil // an attempt before this one put it
	}
	return 0, fmt.Errorf("register %s: %w", worker, store.ErrUnavailable) // it registered again meanwhile
}

// began returns the incarnation that an attempt to register has made already, and 0 if
// it is to make one. ErrStale: another attempt has made one since.
func (s *Store) began(ctx context.Context, worker string, kv *mvccpb.KeyValue, previous, attempt int64) (incarnation int64, err error) {
	if kv == nil || attempt == 0 {
		return 0, nil
	}
	there, err := decodeIncarnation(kv)
	switch {
	case err != nil:
		return 0, err
	case there.Attempt != attempt && there.Incarnation != previous:
		return 0, fmt.Errorf("register %s: %w", worker, session.ErrStale)
	case there.Attempt != attempt || there.Left:
		return 0, nil
	}
	read, err := s.readMembership(ctx, "register", worker, there.Incarnation)
	if err != nil || read.condemned {
		return 0, err // it is over already, and its worker never knew it
	}
	return there.Incarnation, nil
}

// join puts the member key of an incarnation, if it is still the worker's newest.
func (s *Store) join(ctx context.Context, worker string, incarnation int64, lease store.Lease, value memberValue) error {
	read, err := s.get(ctx, "register", incarnationKey(worker))
	if err != nil {
		return err
	}
	kv := first(read.Kvs)
	if kv == nil {
		return fmt.Errorf("register %s: %w", worker, store.ErrUnavailable)
	}
	if there, err := decodeIncarnation(kv); err != nil || there.Left || there.Incarnation != incarnation {
		return cmp.Or(err, fmt.Errorf("register %s: %w", worker, store.ErrUnavailable)) // it registered again meanwhile
	}
	resp, err := s.txn(ctx, "register",
		[]clientv3.Cmp{unchanged(incarnationKey(worker), kv.ModRevision), absent(condemnedKey(worker, incarnation))},
		[]clientv3.Op{
			clientv3.OpPut(memberKey(worker, incarnation), encode(value), clientv3.WithLease(clientv3.LeaseID(lease.ID))),
			clientv3.OpDelete(deadKey(worker, incarnation)), // it may have looked dead in between
		},
		nil)
	if err != nil {
		return again(err)
	}
	if !resp.Succeeded { // it registered again meanwhile
		return fmt.Errorf("register %s: %w", worker, store.ErrUnavailable)
	}
	return nil
}

// grant returns a new lease. One that was granted without an answer ends by itself.
func (s *Store) grant(ctx context.Context, op string) (store.Lease, error) {
	resp, err := attempt(withOp(ctx, op), s, attemptTimeout, func(ctx context.Context) (*clientv3.LeaseGrantResponse, error) {
		return s.client.Grant(ctx, int64(math.Ceil(s.ttl.Seconds())))
	})
	if err != nil {
		return store.Lease{}, s.wrap(ctx, op, err)
	}
	return store.Lease{ID: int64(resp.ID), TTL: seconds(resp.TTL)}, nil
}

// Renew extends the lease of worker's incarnation. It returns ErrLeaseLost when
// the lease is gone, or is no longer the one that the member key hangs on: then
// extending it keeps nobody alive.
//
// It asks other members of etcd while the worker waits, which is not for long: it
// knows how much time is left and asks another replica.
func (s *Store) Renew(ctx context.Context, worker string, incarnation, lease int64) (time.Duration, error) {
	ttl, err := attempt(withOp(ctx, "renew"), s, renewTimeout, func(ctx context.Context) (time.Duration, error) {
		return s.keepAlive(ctx, lease)
	})
	if err != nil {
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return 0, fmt.Errorf("renew %s: %w", worker, session.ErrLeaseLost)
		}
		return 0, s.wrap(ctx, "renew", err)
	}
	resp, err := s.read(ctx, "renew", renewTimeout, memberKey(worker, incarnation))
	if err != nil {
		return 0, err
	}
	if len(resp.Kvs) == 0 || resp.Kvs[0].Lease != lease {
		return 0, fmt.Errorf("renew %s: %w", worker, session.ErrLeaseLost)
	}
	return ttl, nil
}

// keepAlive is one keep-alive over a stream of its own. The client's own
// KeepAliveOnce tries again without a pause for as long as ctx lasts.
func (s *Store) keepAlive(ctx context.Context, lease int64) (time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := etcdserverpb.NewLeaseClient(s.client.ActiveConnection()).LeaseKeepAlive(ctx)
	if err != nil {
		return 0, rpctypes.Error(err)
	}
	if err := stream.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: lease}); err != nil {
		return 0, rpctypes.Error(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		return 0, rpctypes.Error(err)
	}
	if resp.TTL <= 0 {
		return 0, rpctypes.ErrLeaseNotFound
	}
	return seconds(resp.TTL), nil
}

// Readopt puts the member key of the same incarnation under a new lease, whether
// the key is there or not. It returns ErrCondemned when the incarnation is over:
// a session was reclaimed from it, it left, or a later one took its place.
//
// The member key's lease must be the one that was read before the new lease was
// granted. Otherwise a late re-adoption, whose lease nobody knows, could take
// the key away from a later one, whose lease is being renewed.
func (s *Store) Readopt(ctx context.Context, worker string, incarnation int64, info *leaseholdv1.WorkerInfo) (store.Lease, error) {
	read, err := s.readMembership(ctx, "readopt", worker, incarnation)
	if err != nil {
		return store.Lease{}, err
	}
	if read.condemned && !readoptIgnoresCondemned || read.over(incarnation) {
		return store.Lease{}, fmt.Errorf("re-adopt %s: %w", worker, session.ErrCondemned)
	}
	return s.readopt(ctx, worker, incarnation, info, read)
}

// readopt does it, if what was read is still so.
func (s *Store) readopt(ctx context.Context, worker string, incarnation int64, info *leaseholdv1.WorkerInfo, read membership) (store.Lease, error) {
	lease, err := s.grant(ctx, "readopt")
	if err != nil {
		return store.Lease{}, err
	}
	value := newMemberValue(info, read.incarnation.Registered)
	if before, ok := read.value(); ok {
		value.AppliedRevision, value.Rejections = before.AppliedRevision, before.Rejections
		value.Draining = value.Draining || before.Draining // the worker may not know it yet
	}
	key := memberKey(worker, incarnation)
	guards := []clientv3.Cmp{
		unchanged(incarnationKey(worker), read.revision),
		clientv3.Compare(clientv3.LeaseValue(key), "=", read.lease()),
	}
	if !readoptIgnoresCondemned {
		guards = append(guards, absent(condemnedKey(worker, incarnation)))
	}
	resp, err := s.txn(ctx, "readopt", guards,
		[]clientv3.Op{
			// As it is: whoever read it while the worker was dead has to read it again,
			// so that a reclaim which is still on its way from then is refused, also when
			// the worker is dead once more.
			clientv3.OpPut(incarnationKey(worker), encode(read.incarnation)),
			clientv3.OpPut(key, encode(value), clientv3.WithLease(clientv3.LeaseID(lease.ID))),
			clientv3.OpDelete(deadKey(worker, incarnation)),
		},
		[]clientv3.Op{
			clientv3.OpGet(condemnedKey(worker, incarnation), clientv3.WithCountOnly()),
			clientv3.OpGet(incarnationKey(worker)),
			clientv3.OpGet(key), // with its value: etcd leaves the lease out of keys-only reads
		})
	if err != nil {
		return store.Lease{}, again(err)
	}
	if resp.Succeeded {
		return lease, nil
	}
	if there := first(resp.Responses[2].GetResponseRange().Kvs); there != nil && there.Lease == lease.ID {
		return lease, nil // an attempt before this one did it
	}
	return store.Lease{}, fmt.Errorf("re-adopt %s: %w", worker, readoptRefusal(resp, incarnation))
}

// readoptRefusal tells an incarnation that is over from one whose keys changed
// under the transaction, which is to be tried again.
func readoptRefusal(resp *clientv3.TxnResponse, incarnation int64) error {
	if resp.Responses[0].GetResponseRange().Count > 0 {
		return session.ErrCondemned
	}
	var m membership
	if err := m.readIncarnation(first(resp.Responses[1].GetResponseRange().Kvs)); err != nil {
		return err
	}
	if m.over(incarnation) {
		return session.ErrCondemned
	}
	return store.ErrUnavailable
}

// Leave ends an incarnation for good: it deletes the member key and marks the
// incarnation as left in one transaction, and then revokes the lease. It
// succeeds when the incarnation is over already.
func (s *Store) Leave(ctx context.Context, worker string, incarnation, lease int64) error {
	for {
		read, err := s.readMembership(ctx, "leave", worker, incarnation)
		if err != nil {
			return err
		}
		then := []clientv3.Op{clientv3.OpDelete(memberKey(worker, incarnation))}
		if !read.over(incarnation) {
			left := read.incarnation
			left.Left = true
			then = append(then, clientv3.OpPut(incarnationKey(worker), encode(left)))
		}
		resp, err := s.txn(ctx, "leave", []clientv3.Cmp{unchanged(incarnationKey(worker), read.revision)}, then, nil)
		if err != nil {
			return err
		}
		if resp.Succeeded {
			return s.revoke(ctx, read, lease)
		}
	}
}

// revoke gives the lease back if it was the member key's. Another's is not
// touched; one that hangs on nothing ends by itself.
func (s *Store) revoke(ctx context.Context, read membership, lease int64) error {
	if lease == 0 || read.lease() != lease {
		return nil
	}
	_, err := attempt(withOp(ctx, "leave"), s, attemptTimeout, func(ctx context.Context) (*clientv3.LeaseRevokeResponse, error) {
		return s.client.Revoke(ctx, clientv3.LeaseID(lease))
	})
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return nil
	}
	return s.wrap(ctx, "leave", err)
}

// SetDraining records whether a worker hands its sessions over and takes no more. It
// returns ErrNotAlive if the incarnation is not alive.
func (s *Store) SetDraining(ctx context.Context, key store.MemberKey, draining bool) error {
	alive, err := s.changeMember(ctx, "drain", key, func(v *memberValue) bool {
		changes := v.Draining != draining
		v.Draining = draining
		return changes
	})
	if err == nil && !alive {
		err = fmt.Errorf("drain %s: %w", key.Worker, session.ErrNotAlive)
	}
	return err
}

// changeMember changes the value of a member key, which keeps its lease. There is
// nothing to do if change says so, or if the member is not alive.
func (s *Store) changeMember(ctx context.Context, op string, key store.MemberKey, change func(*memberValue) bool) (alive bool, err error) {
	name := memberKey(key.Worker, key.Incarnation)
	for {
		resp, err := s.get(ctx, op, name)
		if err != nil || len(resp.Kvs) == 0 {
			return false, err
		}
		kv := resp.Kvs[0]
		value, err := decodeMemberValue(kv)
		if err != nil || !change(&value) {
			return true, err
		}
		done, err := s.txn(ctx, op,
			[]clientv3.Cmp{present(name), unchanged(name, kv.ModRevision)},
			[]clientv3.Op{clientv3.OpPut(name, encode(value), clientv3.WithIgnoreLease())}, nil)
		if err != nil || done.Succeeded {
			return true, err
		}
	}
}

// membership is what the store has of one incarnation.
type membership struct {
	incarnation incarnationValue
	revision    int64 // of incarnations/{worker}; 0 if it is absent
	condemned   bool
	member      *mvccpb.KeyValue // nil if it is absent
}

func (s *Store) readMembership(ctx context.Context, op, worker string, incarnation int64) (membership, error) {
	resp, err := s.txn(ctx, op, nil, []clientv3.Op{
		clientv3.OpGet(incarnationKey(worker)),
		clientv3.OpGet(condemnedKey(worker, incarnation), clientv3.WithCountOnly()),
		clientv3.OpGet(memberKey(worker, incarnation)),
	}, nil)
	if err != nil {
		return membership{}, err
	}
	m := membership{
		condemned: resp.Responses[1].GetResponseRange().Count > 0,
		member:    first(resp.Responses[2].GetResponseRange().Kvs),
	}
	return m, m.readIncarnation(first(resp.Responses[0].GetResponseRange().Kvs))
}

func (m *membership) readIncarnation(kv *mvccpb.KeyValue) (err error) {
	if kv == nil {
		return nil
	}
	m.revision = kv.ModRevision
	m.incarnation, err = decodeIncarnation(kv)
	return err
}

// over reports whether nobody may continue the incarnation any more.
func (m *membership) over(incarnation int64) bool {
	return m.incarnation.superseded(m.revision, incarnation)
}

func (m *membership) lease() int64 {
	if m.member == nil {
		return 0
	}
	return m.member.Lease
}

// value is the member key's; one that cannot be read is about to be overwritten.
func (m *membership) value() (memberValue, bool) {
	if m.member == nil {
		return memberValue{}, false
	}
	v, err := decodeMemberValue(m.member)
	return v, err == nil
}

// again says ErrUnavailable when the new lease ended before it was used: whoever
// asked is to ask again.
func again(err error) error {
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	return err
}

func first(kvs []*mvccpb.KeyValue) *mvccpb.KeyValue {
	if len(kvs) == 0 {
		return nil
	}
	return kvs[0]
}

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }
