package etcd

import (
	"context"

	"github.com/leasehold/leasehold/controlplane/store"
)

// Applied records what a worker acknowledged, unless it has acknowledged a newer
// revision. A worker that is not alive has nothing to record. What it rejects, and no
// longer rejects, is logged by the replica that records it, and so once.
func (s *Store) Applied(ctx context.Context, key store.MemberKey, ack store.Ack) error {
	var before store.Ack
	changed := false
	_, err := s.changeMember(ctx, "applied", key, func(v *memberValue) bool {
		before = store.Ack{Revision: v.AppliedRevision, Rejections: v.Rejections}
		changed = before.Revision <= ack.Revision && !before.Same(ack)
		if changed {
			v.AppliedRevision, v.Rejections = ack.Revision, ack.Rejections
		}
		return changed
	})
	if err == nil && changed {
		s.logRejections(key.Worker, before.Rejections, ack.Rejections)
	}
	return err
}

func (s *Store) logRejections(worker string, before, now []store.Rejection) {
	was := make(map[string]int64, len(before))
	for _, r := range before {
		was[r.Gateway] = r.Revision
	}
	for _, r := range now {
		if was[r.Gateway] != r.Revision {
			s.log.Warn("worker rejects a gateway", "worker", worker, "gateway", r.Gateway, "revision", r.Revision,
				"serving_revision", r.Serving, "field", r.Field, "reason", r.Reason, "quarantined", r.Quarantined)
		}
		delete(was, r.Gateway)
	}
	for gateway := range was {
		s.log.Info("worker no longer rejects a gateway", "worker", worker, "gateway", gateway)
	}
}
