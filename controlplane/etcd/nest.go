package etcd

import (
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// place is where in a batch's answer that of a step is.
type place struct {
	outer int
	inner int // among the steps that share a premise; -1 without one
	// facts is how much the premise reads when it does not hold, of which the
	// step's own is from at, n long.
	facts, at, n int
}

// nest makes every step a transaction within one, so that a step that is refused
// takes nothing with it. Those that share a premise are in one transaction more,
// which compares the premise once: each member of etcd carries out every comparison.
func nest(steps []step) ([]clientv3.Op, []place) {
	var ops []clientv3.Op
	places := make([]place, len(steps))
	members := make(map[string][]int)
	for i, s := range steps {
		if s.premise != nil {
			members[s.premise.name] = append(members[s.premise.name], i)
			continue
		}
		places[i] = place{outer: len(ops), inner: -1}
		ops = append(ops, clientv3.OpTxn(s.when, s.then, s.otherwise))
	}
	for _, of := range members {
		shared := steps[of[0]].premise
		then, otherwise := make([]clientv3.Op, len(of)), append([]clientv3.Op{}, shared.otherwise...)
		for n, i := range of {
			s := steps[i]
			then[n] = clientv3.OpTxn(s.when, s.then, s.otherwise)
			places[i] = place{outer: len(ops), inner: n, facts: len(shared.otherwise), at: len(otherwise), n: len(s.otherwise)}
			otherwise = append(otherwise, s.otherwise...)
		}
		ops = append(ops, clientv3.OpTxn(shared.when, then, otherwise))
	}
	return ops, places
}

// find reports whether the step was granted, and if not, what its own otherwise
// read; shared is what its premise's read, if that did not hold.
func (p place) find(answers []*etcdserverpb.ResponseOp) (granted bool, own, shared []*etcdserverpb.ResponseOp) {
	resp := answers[p.outer].GetResponseTxn()
	switch {
	case p.inner >= 0 && !resp.Succeeded:
		return false, resp.Responses[p.at : p.at+p.n], resp.Responses[:p.facts]
	case p.inner >= 0:
		resp = resp.Responses[p.inner].GetResponseTxn()
	}
	return resp.Succeeded, resp.Responses, nil
}
