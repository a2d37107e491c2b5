package etcd

import (
	"context"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// pausedKV stops a store between what it read and the transaction that rests on
// it, so that a test can change what was read.
type pausedKV struct {
	clientv3.KV
	// meanwhile runs once, before the next transaction that compares or writes, or
	// after as many of those as skip says.
	meanwhile func()
	skip      int
	// lost makes it lose the answer to that transaction and send it again; what
	// runs meanwhile does so in between.
	lost bool
}

func (kv *pausedKV) Txn(ctx context.Context) clientv3.Txn {
	return &pausedTxn{txn: kv.KV.Txn(ctx), kv: kv}
}

func (kv *pausedKV) pause() {
	meanwhile := kv.meanwhile
	switch {
	case meanwhile == nil:
	case kv.skip > 0:
		kv.skip--
	default:
		kv.meanwhile = nil
		meanwhile()
	}
}

type pausedTxn struct {
	txn     clientv3.Txn
	kv      *pausedKV
	decides bool // it compares or writes
}

func (t *pausedTxn) If(cmps ...clientv3.Cmp) clientv3.Txn {
	t.txn, t.decides = t.txn.If(cmps...), t.decides || len(cmps) > 0
	return t
}

func (t *pausedTxn) Then(ops ...clientv3.Op) clientv3.Txn {
	reads := func(op clientv3.Op) bool { return op.IsGet() }
	t.txn, t.decides = t.txn.Then(ops...), t.decides || len(slices.DeleteFunc(slices.Clone(ops), reads)) > 0
	return t
}

func (t *pausedTxn) Else(ops ...clientv3.Op) clientv3.Txn {
	t.txn = t.txn.Else(ops...)
	return t
}

func (t *pausedTxn) Commit() (*clientv3.TxnResponse, error) {
	if t.decides && t.kv.lost && t.kv.skip == 0 {
		t.kv.lost = false
		if resp, err := t.txn.Commit(); err != nil {
			return resp, err
		}
	}
	if t.decides {
		t.kv.pause()
	}
	return t.txn.Commit()
}
