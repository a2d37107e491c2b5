package rpc

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/leasehold/leasehold/controlplane/audit"
	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// rootIDLength is how long the id of a root key is.
const rootIDLength = 16

// GetRootKeys implements KeyService.
func (s *keys) GetRootKeys(ctx context.Context, _ *leaseholdv1.GetRootKeysRequest) (*leaseholdv1.GetRootKeysResponse, error) {
	use, err := s.store.RootKeys(ctx)
	if err != nil {
		return nil, err
	}
	resp := &leaseholdv1.GetRootKeysResponse{
		UnsealedGateways:  int32(use.Unsealed),
		OldestDataKeyTime: timestamp(use.Oldest),
		NewestDataKeyTime: timestamp(use.Newest),
	}
	for i, root := range use.Roots {
		resp.Keys = append(resp.Keys, &leaseholdv1.RootKey{
			Id: root.ID, Known: root.Known, Wraps: root.Known && i == 0, DataKeys: int32(root.DataKeys), KeyRing: root.Ring,
		})
	}
	return resp, nil
}

// timestamp is nil for no time.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// RotateRootKey implements KeyService.
func (s *keys) RotateRootKey(ctx context.Context, req *leaseholdv1.RotateRootKeyRequest) (*leaseholdv1.RotateRootKeyResponse, error) {
	var c check
	if n := len(req.GetRootKey()); n != 0 && n != rootIDLength {
		c.add("root_key", "must be the id of a root key, %d characters, or empty; has %d bytes", rootIDLength, n)
	}
	cur := newCursor("root_key")
	after := cur.after(&c, req.GetPageToken(), gateway.ValidID)
	if err := c.err(); err != nil {
		return nil, err
	}
	audit.Of(ctx).Resource = "root key " + req.GetRootKey()
	r, err := s.store.RotateRootKey(ctx, req.GetRootKey(), after)
	if err != nil {
		return nil, err
	}
	return &leaseholdv1.RotateRootKeyResponse{
		Gateways: int32(r.Gateways), Rotated: int32(r.Rotated), Locked: gatewayNames(r.Locked), KeyRingRotated: r.Ring,
		NextPageToken: next(cur, r),
	}, nil
}

// RotateDataKeys implements KeyService.
func (s *keys) RotateDataKeys(ctx context.Context, req *leaseholdv1.RotateDataKeysRequest) (*leaseholdv1.RotateDataKeysResponse, error) {
	var c check
	cur := newCursor("data_keys")
	after := cur.after(&c, req.GetPageToken(), gateway.ValidID)
	if err := c.err(); err != nil {
		return nil, err
	}
	audit.Of(ctx).Resource = "data keys"
	r, err := s.store.RotateDataKeys(ctx, after)
	if err != nil {
		return nil, err
	}
	return &leaseholdv1.RotateDataKeysResponse{
		Gateways: int32(r.Gateways), Rotated: int32(r.Rotated), Locked: gatewayNames(r.Locked), NextPageToken: next(cur, r),
	}, nil
}

// next is the token of the call that goes on where r ended.
func next(cur cursor, r store.Rotation) string {
	if !r.More {
		return ""
	}
	cur.After = r.Last
	return cur.token()
}

func gatewayNames(ids []string) []string {
	var names []string
	for _, id := range ids {
		names = append(names, gateway.Name(id))
	}
	return names
}
