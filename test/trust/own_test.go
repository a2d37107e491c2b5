package trust

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
	"github.com/leasehold/leasehold/test/internal/cluster"
)

func TestAWorkerActsForItselfOnlyAtEveryReplica(t *testing.T) {
	c := cluster.Test(t, cluster.Config{EtcdMembers: 1, ControlPlanes: 2, Workers: 1, Race: true})
	registered, err := c.Registered(t.Context())
	if err != nil || len(registered) != 1 {
		t.Fatalf("workers: got %v, %v; want one", registered, err)
	}
	id := strings.TrimPrefix(registered[0].GetName(), "workers/")
	incarnation := registered[0].GetIncarnation()
	issue(t, c, "worker", "thief")
	record := &leaseholdv1.SessionRecord{Worker: id, Incarnation: incarnation, Epoch: 1}
	digest := strings.Repeat("0", 32)
	calls := map[string]func(context.Context, leaseholdv1.ControlServiceClient) error{
		"Register": func(ctx context.Context, api leaseholdv1.ControlServiceClient) error {
			_, err := api.Register(ctx, &leaseholdv1.RegisterRequest{Worker: id, Info: &leaseholdv1.WorkerInfo{PeerAddress: "127.0.0.1:1"}})
			return err
		},
		"Renew": func(ctx context.Context, api leaseholdv1.ControlServiceClient) error {
			_, err := api.Renew(ctx, &leaseholdv1.RenewRequest{Worker: id, Incarnation: incarnation, Lease: 1})
			return err
		},
		"Readopt": func(ctx context.Context, api leaseholdv1.ControlServiceClient) error {
			_, err := api.Readopt(ctx, &leaseholdv1.ReadoptRequest{Worker: id, Incarnation: 1, Info: &leaseholdv1.WorkerInfo{PeerAddress: "127.0.0.1:1"}})
			return err
		},
		"Leave": func(ctx context.Context, api leaseholdv1.ControlServiceClient) error {
			_, err := api.Leave(ctx, &leaseholdv1.LeaveRequest{Worker: id, Incarnation: 1})
			return err
		},
		"Watch": func(ctx context.Context, api leaseholdv1.ControlServiceClient) error {
			stream, err := api.Watch(ctx)
			if err != nil {
				return err
			}
			if err := stream.Send(&leaseholdv1.WatchRequest{Worker: id, Incarnation: incarnation}); err != nil {
				return err
			}
			_, err = stream.Recv()
			return err
		},
		"Claim": func(ctx context.Context, api leaseholdv1.ControlServiceClient) error {
			_, err := api.Claim(ctx, &leaseholdv1.ClaimRequest{Gateway: "g", Session: digest, Record: record})
			return err
		},
		"Save": func(ctx context.Context, api leaseholdv1.ControlServiceClient) error {
			_, err := api.Save(ctx, &leaseholdv1.SaveRequest{Gateway: "g", Session: digest, Revision: 1, Record: record})
			return err
		},
		"Reclaim": func(ctx context.Context, api leaseholdv1.ControlServiceClient) error {
			_, err := api.Reclaim(ctx, &leaseholdv1.ReclaimRequest{Gateway: "g", Session: digest, Worker: id, Incarnation: incarnation, Revision: 1})
			return err
		},
		"End": func(ctx context.Context, api leaseholdv1.ControlServiceClient) error {
			_, err := api.End(ctx, &leaseholdv1.EndRequest{Gateway: "g", Session: digest, Worker: id, Incarnation: incarnation})
			return err
		},
		"HandOver": func(ctx context.Context, api leaseholdv1.ControlServiceClient) error {
			_, err := api.HandOver(ctx, &leaseholdv1.HandOverRequest{Gateway: "g", Session: digest, Worker: id, Incarnation: incarnation, Revision: 1})
			return err
		},
		"RecordPeers": func(ctx context.Context, api leaseholdv1.ControlServiceClient) error {
			_, err := api.RecordPeers(ctx, &leaseholdv1.RecordPeersRequest{Worker: id, Incarnation: incarnation})
			return err
		},
		"SetDraining": func(ctx context.Context, api leaseholdv1.ControlServiceClient) error {
			_, err := api.SetDraining(ctx, &leaseholdv1.SetDrainingRequest{Worker: id, Incarnation: incarnation, Draining: false})
			return err
		},
	}
	service := leaseholdv1.File_leasehold_v1_control_proto.Services().ByName("ControlService")
	for i := range service.Methods().Len() {
		// Resolve and GetKeyRingRevision act for nobody.
		if name := string(service.Methods().Get(i).Name()); calls[name] == nil && name != "Resolve" && name != "GetKeyRingRevision" {
			t.Errorf("%s is not tried in this test", name)
		}
	}
	for _, replica := range c.Control {
		thief := leaseholdv1.NewControlServiceClient(dial(t, c, replica.Address, "thief"))
		itself := leaseholdv1.NewControlServiceClient(dial(t, c, replica.Address, c.Workers[0].Name))
		for name, call := range calls {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			if err := call(ctx, thief); status.Code(err) != codes.PermissionDenied || reason(err) != "NOT_YOUR_WORKER" {
				t.Errorf("%s by another worker at %s: got %v, want PERMISSION_DENIED with NOT_YOUR_WORKER", name, replica.Name, err)
			}
			if name != "Register" { // which would begin another incarnation
				if err := call(ctx, itself); status.Code(err) == codes.PermissionDenied {
					t.Errorf("%s by the worker itself at %s: got %v", name, replica.Name, err)
				}
			}
			cancel()
		}
		logged(t, replica.Process, 1, "call was refused", "ControlService/Claim", "name=thief", "the worker is another's")
	}
	after, err := c.Registered(t.Context())
	if err != nil || len(after) != 1 || after[0].GetIncarnation() != incarnation {
		t.Errorf("workers afterwards: got %v, %v; want the same one", after, err)
	}
}
