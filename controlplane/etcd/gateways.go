package etcd

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/leasehold/leasehold/controlplane/envelope"
	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// countsPerRead keeps a read of many gateways' counts below etcd's 128 operations.
const countsPerRead = 50

// CreateGateway stores a valid definition under its name. It returns
// gateway.ErrExists when there is one.
func (s *Store) CreateGateway(ctx context.Context, def *leaseholdv1.Gateway) (*leaseholdv1.Gateway, error) {
	next := gateway.Definition(def)
	next.CreateTime = timestamppb.New(time.Now())
	next.UpdateTime = next.CreateTime
	value, key, err := s.encodeGateway(next)
	if err != nil {
		return nil, err
	}
	resp, err := s.txnOnce(ctx, "create_gateway", []clientv3.Cmp{absent(key)}, []clientv3.Op{clientv3.OpPut(key, value)})
	if err != nil {
		return nil, err
	}
	if !resp.Succeeded {
		return nil, fmt.Errorf("create %s: %w", next.Name, gateway.ErrExists)
	}
	return s.stored(ctx, next, resp.Header.Revision)
}

// stored returns what was written at revision, with its etag and status. The
// write is done: when the status cannot be read now, it is left at its revision.
func (s *Store) stored(ctx context.Context, g *leaseholdv1.Gateway, revision int64) (*leaseholdv1.Gateway, error) {
	g.Etag = gateway.ETag(revision)
	g.Status = &leaseholdv1.GatewayStatus{Revision: revision}
	if err := s.fillStatus(ctx, g); err != nil {
		s.log.Warn("gateway was written but its status could not be read", "gateway", g.Name, "error", err)
	}
	return g, nil
}

// GetGateway returns a gateway with its status, or gateway.ErrNotFound.
func (s *Store) GetGateway(ctx context.Context, id string) (*leaseholdv1.Gateway, error) {
	kv, err := s.gatewayKV(ctx, "get_gateway", id)
	if err != nil {
		return nil, err
	}
	g, err := s.decodeGateway(kv)
	if err != nil {
		return nil, err
	}
	return g, s.fillWhole(ctx, g)
}

func (s *Store) gatewayKV(ctx context.Context, op, id string) (*mvccpb.KeyValue, error) {
	resp, err := s.get(ctx, op, gatewayKey(id))
	if err != nil {
		return nil, err
	}
	if len(resp.Kvs) == 0 {
		return nil, fmt.Errorf("%s: %w", gateway.Name(id), gateway.ErrNotFound)
	}
	return resp.Kvs[0], nil
}

// ListGateways returns a page of gateways ordered by name, with their status, and
// whether more may follow after the id last. It reads no more than a few pages,
// whatever matches, and may therefore return fewer than asked for.
func (s *Store) ListGateways(ctx context.Context, q gateway.Query) (page []*leaseholdv1.Gateway, last string, more bool, err error) {
	from, end := gatewaysPrefix, clientv3.GetPrefixRangeEnd(gatewaysPrefix)
	if q.After != "" {
		from = gatewayKey(q.After) + "\x00"
	}
	limit := scanSize(q.Size, !q.Filter.All())
	for scans := 0; scans < maxScans; scans++ {
		resp, err := s.scan(ctx, "list_gateways", from, clientv3.WithRange(end), clientv3.WithLimit(limit))
		if err != nil {
			return nil, "", false, err
		}
		for _, kv := range resp.Kvs {
			if len(page) == q.Size {
				return page, last, true, s.fillStatus(ctx, page...)
			}
			g, err := s.decodeGateway(kv)
			if err != nil {
				return nil, "", false, err
			}
			from, last = string(kv.Key)+"\x00", strings.TrimPrefix(string(kv.Key), gatewaysPrefix)
			if q.Filter.Matches(g) {
				page = append(page, g)
			}
		}
		if more = resp.More; !more {
			break
		}
	}
	return page, last, more, s.fillStatus(ctx, page...)
}

// UpdateGateway replaces a definition by what change makes of it, if etag is
// empty or the stored one's. It returns gateway.ErrNotFound,
// gateway.ErrETagMismatch, or change's error, which is gateway.ErrLocked too when the
// stored secrets cannot be opened: a change that gives all of them anew mends that.
// One that changes nothing writes nothing.
func (s *Store) UpdateGateway(ctx context.Context, id, etag string, change func(*leaseholdv1.Gateway) (*leaseholdv1.Gateway, error)) (*leaseholdv1.Gateway, error) {
	for {
		kv, err := s.gatewayKV(ctx, "update_gateway", id)
		if err != nil {
			return nil, err
		}
		stored, err := s.decodeGateway(kv)
		if err != nil {
			return nil, err
		}
		if etag != "" && etag != stored.Etag {
			return nil, fmt.Errorf("update %s: %w", stored.Name, gateway.ErrETagMismatch)
		}
		changed, err := change(proto.CloneOf(stored))
		if err != nil && stored.Status.Unusable != "" {
			return nil, fmt.Errorf("update %s: %w: %w", stored.Name, gateway.ErrLocked, err)
		}
		if err != nil {
			return nil, err
		}
		next := gateway.Definition(changed)
		if proto.Equal(next, gateway.Definition(stored)) {
			return stored, s.fillStatus(ctx, stored)
		}
		next.CreateTime, next.UpdateTime = stored.CreateTime, timestamppb.New(time.Now())
		value, key, err := s.encodeGateway(next)
		if err != nil {
			return nil, err
		}
		resp, err := s.txnOnce(ctx, "update_gateway", []clientv3.Cmp{unchanged(key, kv.ModRevision)}, []clientv3.Op{clientv3.OpPut(key, value)})
		if err != nil {
			return nil, err
		}
		if resp.Succeeded {
			return s.stored(ctx, next, resp.Header.Revision)
		}
	}
}

// DeleteGateway removes a definition, if etag is empty or the stored one's, and returns
// it, at the revision of its removal; nothing but its name if it could not be read. It
// returns gateway.ErrNotFound or gateway.ErrETagMismatch.
func (s *Store) DeleteGateway(ctx context.Context, id, etag string) (*leaseholdv1.Gateway, error) {
	for {
		kv, err := s.gatewayKV(ctx, "delete_gateway", id)
		if err != nil {
			return nil, err
		}
		if etag != "" && etag != gateway.ETag(envelope.Revision(kv.Value, kv.ModRevision)) {
			return nil, fmt.Errorf("delete %s: %w", gateway.Name(id), gateway.ErrETagMismatch)
		}
		key := gatewayKey(id)
		resp, err := s.txnOnce(ctx, "delete_gateway", []clientv3.Cmp{unchanged(key, kv.ModRevision)}, []clientv3.Op{clientv3.OpDelete(key)})
		if err != nil {
			return nil, err
		}
		if !resp.Succeeded {
			continue
		}
		deleted, err := s.decodeGateway(kv)
		if err != nil {
			deleted = &leaseholdv1.Gateway{Name: gateway.Name(id)}
		}
		deleted.Status = &leaseholdv1.GatewayStatus{Revision: resp.Header.Revision}
		return deleted, nil
	}
}

// fillStatus counts workers and live sessions, and names the workers that reject a
// definition.
func (s *Store) fillStatus(ctx context.Context, gateways ...*leaseholdv1.Gateway) error {
	err := s.fillWhole(ctx, gateways...)
	for _, g := range gateways {
		store.OnlyRejecting(g.Status)
	}
	return err
}

// fillWhole is fillStatus, but all workers are named. Live sessions are the records
// less the tombstones; both are counted by key in one transaction, without
// reading a record, and exactly.
func (s *Store) fillWhole(ctx context.Context, gateways ...*leaseholdv1.Gateway) error {
	for len(gateways) > 0 {
		n := min(len(gateways), countsPerRead)
		if err := s.fillSome(ctx, gateways[:n]); err != nil {
			return err
		}
		gateways = gateways[n:]
	}
	return nil
}

func (s *Store) fillSome(ctx context.Context, gateways []*leaseholdv1.Gateway) error {
	ops := []clientv3.Op{clientv3.OpGet(membersPrefix, clientv3.WithPrefix())}
	for _, g := range gateways {
		id, _ := gateway.ParseName(g.Name)
		ops = append(ops, countKeys(sessionsPrefix+id+"/"), countKeys(endedPrefix+id+"/"))
	}
	resp, err := s.readAll(ctx, "status", ops)
	if err != nil {
		return err
	}
	members, err := newestMembers(resp.Responses[0])
	if err != nil {
		return err
	}
	for i, g := range gateways {
		records := resp.Responses[1+2*i].GetResponseRange().Count
		tombstones := resp.Responses[2+2*i].GetResponseRange().Count
		g.Status.Sessions = records - tombstones
		id, _ := gateway.ParseName(g.Name)
		store.Fill(g.Status, id, members)
	}
	return nil
}

func countKeys(prefix string) clientv3.Op {
	return clientv3.OpGet(prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
}

func newestMembers(op *etcdserverpb.ResponseOp) ([]store.Member, error) {
	table := &store.Table[store.MemberKey, store.Member]{Entries: map[store.MemberKey]store.Member{}}
	for _, kv := range op.GetResponseRange().Kvs {
		m, err := decodeMember(kv)
		if err != nil {
			return nil, err
		}
		table.Entries[m.MemberKey] = m
	}
	return store.Newest(table), nil
}
