package etcd

import (
	"context"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/leasehold/leasehold/controlplane/session"
)

// Certificate returns the name in the certificate that worker registered with;
// empty if it had none. It does not change for as long as anything is known of the
// worker; then it is ErrCondemned.
func (s *Store) Certificate(ctx context.Context, worker string) (string, error) {
	resp, err := s.get(ctx, "certificate", incarnationKey(worker))
	if err != nil {
		return "", err
	}
	there := first(resp.Kvs)
	if there == nil {
		return "", fmt.Errorf("worker %s: %w", worker, session.ErrCondemned)
	}
	v, err := decodeIncarnation(there)
	return v.Certificate, err
}

// ownOf returns ErrForeign if a registration was made with another certificate.
func ownOf(certificate, worker string, there *mvccpb.KeyValue) error {
	if there == nil {
		return nil
	}
	v, err := decodeIncarnation(there)
	if err != nil {
		return err
	}
	if v.Certificate != certificate {
		return fmt.Errorf("register %s: %w", worker, session.ErrForeign)
	}
	return nil
}
