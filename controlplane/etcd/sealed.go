package etcd

import (
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/leasehold/leasehold/controlplane/envelope"
	"github.com/leasehold/leasehold/controlplane/gateway"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// maxUnusable bounds what a gateway's status says of why it cannot be used.
const maxUnusable = 512

// decodeGateway returns a definition with the values of its secrets, and with etag
// and status.revision filled. When the values cannot be opened, it is without them,
// and status.unusable says why.
func (s *Store) decodeGateway(kv *mvccpb.KeyValue) (*leaseholdv1.Gateway, error) {
	o, err := envelope.Open(s.roots(), string(kv.Key), kv.Value, kv.ModRevision)
	if err != nil {
		return nil, fmt.Errorf("decode %s: %w", kv.Key, err)
	}
	g := o.Gateway
	g.Etag = gateway.ETag(o.Revision)
	g.Status = &leaseholdv1.GatewayStatus{Revision: o.Revision}
	if o.Locked != nil {
		text := o.Locked.Error()
		g.Status.Unusable = text[:min(len(text), maxUnusable)]
	}
	return g, nil
}

// encodeGateway returns what is stored of a definition, and where.
func (s *Store) encodeGateway(g *leaseholdv1.Gateway) (value, key string, err error) {
	id, ok := gateway.ParseName(g.Name)
	if !ok {
		return "", "", fmt.Errorf("encode gateway: %q is not a gateway's name", g.Name)
	}
	key = gatewayKey(id)
	sealed, err := envelope.Seal(s.roots(), key, g, time.Now())
	return string(sealed), key, err
}
