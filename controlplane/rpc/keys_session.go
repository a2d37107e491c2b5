package rpc

import (
	"context"

	"github.com/leasehold/leasehold/controlplane/audit"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// SessionKeys is the ring of keys that seal session ids.
type SessionKeys interface {
	// SessionKeys returns the ring's keys, oldest first.
	SessionKeys(ctx context.Context) ([]*leaseholdv1.SessionKey, error)
	// RotateSessionKey makes a key that seals once every living worker has it, unless
	// one waits for that already, and returns it. It fails with store.ErrTooManyKeys.
	RotateSessionKey(ctx context.Context) (*leaseholdv1.SessionKey, error)
}

// keys implements KeyService.
type keys struct {
	leaseholdv1.UnimplementedKeyServiceServer
	session SessionKeys
	store   Store
}

// GetSessionKeys implements KeyService.
func (s *keys) GetSessionKeys(ctx context.Context, _ *leaseholdv1.GetSessionKeysRequest) (*leaseholdv1.GetSessionKeysResponse, error) {
	list, err := s.session.SessionKeys(ctx)
	if err != nil {
		return nil, err
	}
	return &leaseholdv1.GetSessionKeysResponse{Keys: list}, nil
}

// RotateSessionKey implements KeyService.
func (s *keys) RotateSessionKey(ctx context.Context, _ *leaseholdv1.RotateSessionKeyRequest) (*leaseholdv1.RotateSessionKeyResponse, error) {
	key, err := s.session.RotateSessionKey(ctx)
	if err != nil {
		return nil, err
	}
	audit.Of(ctx).Resource = "session key " + key.GetId()
	return &leaseholdv1.RotateSessionKeyResponse{Key: key}, nil
}
