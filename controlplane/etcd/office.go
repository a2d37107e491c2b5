package etcd

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// officeTTL is how long an office stays with a replica that is gone. Only work
	// is at stake: what its holder writes is guarded by itself.
	officeTTL = 9 * time.Second
	// officeRenew is how often its holder says that it is there.
	officeRenew = 3 * time.Second
	// officeAsk is how often the others ask whether it is vacant.
	officeAsk = 4 * time.Second
)

// office is work that one replica does at a time: the one whose key it is. The
// key hangs on a lease of its own.
type office struct {
	store *Store
	key   string

	lease   clientv3.LeaseID // 0 for a replica that does not hold it
	renewed time.Time        // when the lease was last known to live
	asked   time.Time
}

// hold takes the office if it is vacant and keeps it if it is held here, and
// reports whether it is.
func (o *office) hold(ctx context.Context) (bool, error) {
	now := time.Now()
	if o.lease == 0 {
		if now.Sub(o.asked) < officeAsk {
			return false, nil
		}
		o.asked = now
		return o.take(ctx)
	}
	if now.Sub(o.renewed) < officeRenew {
		return true, nil
	}
	_, err := attempt(withOp(ctx, "collect"), o.store, attemptTimeout, func(ctx context.Context) (time.Duration, error) {
		return o.store.keepAlive(ctx, int64(o.lease))
	})
	switch {
	case err == nil:
		o.renewed = now
		return true, nil
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		o.lease = 0
		return false, nil
	case now.Sub(o.renewed) >= officeTTL:
		o.lease = 0
	}
	return false, o.store.wrap(ctx, "collect", err)
}

func (o *office) take(ctx context.Context) (bool, error) {
	held, err := o.store.get(ctx, "collect", o.key, clientv3.WithCountOnly())
	if err != nil || held.Count > 0 {
		return false, err
	}
	now := time.Now()
	lease, err := o.store.client.Grant(withOp(ctx, "collect"), int64(officeTTL.Seconds()))
	if err != nil {
		return false, o.store.wrap(ctx, "collect", err)
	}
	resp, err := o.store.txn(ctx, "collect", []clientv3.Cmp{absent(o.key)},
		[]clientv3.Op{clientv3.OpPut(o.key, "", clientv3.WithLease(lease.ID))},
		[]clientv3.Op{clientv3.OpGet(o.key)})
	if err != nil {
		return false, err
	}
	if !resp.Succeeded {
		if there := first(resp.Responses[0].GetResponseRange().Kvs); there == nil || there.Lease != int64(lease.ID) {
			return false, nil
		}
	}
	o.lease, o.renewed = lease.ID, now
	return true, nil
}

// leave gives the office up, so that another replica need not wait.
func (o *office) leave(ctx context.Context) {
	if o.lease == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_, _ = o.store.client.Revoke(withOp(ctx, "collect"), o.lease) // it ends by itself too
	o.lease = 0
}
