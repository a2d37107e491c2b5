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
	"google.golang.org/grpc"

	"github.com/leasehold/leasehold/controlplane/store"
)

// bookmarkEvery is how often a watch on which nothing happens is told how far it
// has come: more often than etcd forgets.
const bookmarkEvery = 30 * time.Second

// history is what follows the changes under a prefix.
type history struct {
	// prefix is where the keys are.
	prefix string
	// end, if set, is where they end beyond those with the prefix.
	end string
	// changes is given the events of one revision. Unless whole is set, more of
	// the same revision follow.
	changes func(events []*mvccpb.Event, revision int64, whole bool) error
	// upTo is told that everything up to revision was given to changes.
	upTo func(revision int64) error
}

// since gives h everything that happened after a revision, and goes on until ctx
// ends or h returns an error. It returns store.ErrCompacted when etcd has not
// kept everything.
//
// It speaks to etcd over a stream of its own and asks for no more than h takes,
// where the client's own watch would queue without a bound whatever comes: a
// slow h is made up for from etcd's history.
func (s *Store) since(ctx context.Context, revision int64, h history) error {
	ctx, cancel := context.WithCancel(withOp(clientv3.WithRequireLeader(ctx), "watch"))
	stream, err := etcdserverpb.NewWatchClient(s.client.ActiveConnection()).Watch(ctx, failFast, grpc.MaxCallRecvMsgSize(math.MaxInt32))
	if err != nil {
		cancel()
		return s.wrap(ctx, "watch", rpctypes.Error(err))
	}
	done := make(chan struct{})
	created := make(chan struct{})
	go func() {
		defer close(done)
		s.ask(ctx, stream, h.prefix, cmp.Or(h.end, clientv3.GetPrefixRangeEnd(h.prefix)), revision, created)
	}()
	err = s.receive(ctx, stream, h, created)
	cancel()
	<-done
	return err
}

// ask is what sends: it opens the watch, and then asks now and then how far it
// has come. When sending fails, receiving does too, and says why.
func (s *Store) ask(ctx context.Context, stream etcdserverpb.Watch_WatchClient, from, end string, revision int64, created <-chan struct{}) {
	err := stream.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{
		CreateRequest: &etcdserverpb.WatchCreateRequest{
			Key:           []byte(from),
			RangeEnd:      []byte(end),
			StartRevision: revision + 1,
			PrevKv:        true,
			Fragment:      true,
		},
	}})
	if err != nil {
		return
	}
	select {
	case <-created:
	case <-ctx.Done():
		return
	}
	ticker := time.NewTicker(s.bookmark)
	defer ticker.Stop()
	for {
		err := stream.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_ProgressRequest{
			ProgressRequest: &etcdserverpb.WatchProgressRequest{},
		}})
		if err != nil {
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *Store) receive(ctx context.Context, stream etcdserverpb.Watch_WatchClient, h history, created chan<- struct{}) error {
	for {
		resp, err := stream.Recv()
		switch {
		case err != nil:
			return s.wrap(ctx, "watch", rpctypes.Error(err))
		case resp.CompactRevision != 0:
			return fmt.Errorf("etcd watch: %w", store.ErrCompacted)
		case resp.Canceled:
			return fmt.Errorf("etcd watch: %w: %s", store.ErrUnavailable, resp.CancelReason)
		case resp.Created:
			close(created)
		case len(resp.Events) > 0:
			err = h.give(resp.Events, resp.Fragment)
		default:
			err = h.upTo(resp.Header.Revision)
		}
		if err != nil {
			return err
		}
	}
}

// give splits events at their revisions. etcd does not split a revision, except
// where it says that the response is a fragment.
func (h history) give(events []*mvccpb.Event, fragment bool) error {
	for len(events) > 0 {
		revision, n := events[0].Kv.ModRevision, 1
		for n < len(events) && events[n].Kv.ModRevision == revision {
			n++
		}
		if err := h.changes(events[:n], revision, n < len(events) || !fragment); err != nil {
			return err
		}
		events = events[n:]
	}
	return nil
}

// at returns the keys under prefix as they were at revision, a page of at most
// limit after the key after; revision 0 means now.
func (s *Store) at(ctx context.Context, prefix, after string, revision, limit int64) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	from := prefix
	if after != "" {
		from = after + "\x00"
	}
	resp, err := s.scan(ctx, "watch_state", from, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)), clientv3.WithRev(revision), clientv3.WithLimit(limit))
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		return nil, fmt.Errorf("etcd watch: %w", store.ErrCompacted)
	case errors.Is(err, rpctypes.ErrFutureRev):
		return nil, fmt.Errorf("etcd watch: %w", store.ErrFutureRevision)
	}
	return resp, err
}

// state visits everything under prefix as it is at one revision, a page at a
// time, and returns the revision.
func (s *Store) state(ctx context.Context, prefix string, visit func([]*mvccpb.KeyValue) error) (revision int64, err error) {
	for after := ""; ; {
		resp, err := s.at(ctx, prefix, after, revision, selectiveScan)
		if err != nil {
			return 0, err
		}
		if revision == 0 {
			revision = resp.Header.Revision
		}
		if err := visit(resp.Kvs); err != nil || !resp.More {
			return revision, err
		}
		after = string(resp.Kvs[len(resp.Kvs)-1].Key)
	}
}
