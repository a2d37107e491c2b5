package controlplane_test

import (
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/leasehold/leasehold/controlplane/rpc"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestAWorkerIsTakenOneVersionOfTheProtocolAwayAndNoFurther(t *testing.T) {
	r := start(t, embedded(t))
	for _, tt := range []struct {
		protocol int32
		taken    bool
	}{{rpc.Protocol, true}, {rpc.Protocol - 1, true}, {rpc.Protocol + 1, true}, {rpc.Protocol + 2, false}, {-7, false}, {1<<31 - 1, false}} {
		info := &leaseholdv1.WorkerInfo{PeerAddress: "h:1", Protocol: tt.protocol}
		registered, err := r.control.Register(testContext(t), &leaseholdv1.RegisterRequest{Worker: workerA, Info: info})
		if tt.taken {
			if err != nil {
				t.Errorf("protocol %d: %v", tt.protocol, err)
				continue
			}
			_, err = r.control.Readopt(testContext(t), &leaseholdv1.ReadoptRequest{Worker: workerA, Incarnation: registered.Incarnation, Info: info})
			if err != nil {
				t.Errorf("protocol %d, to re-adopt: %v", tt.protocol, err)
			}
			continue
		}
		if status.Code(err) != codes.FailedPrecondition || reasonOf(err).GetReason() != "INCOMPATIBLE_WORKER" {
			t.Errorf("protocol %d: got %v, want FAILED_PRECONDITION with INCOMPATIBLE_WORKER", tt.protocol, err)
		}
		_, err = r.control.Readopt(testContext(t), &leaseholdv1.ReadoptRequest{Worker: workerA, Incarnation: 1, Info: info})
		if reasonOf(err).GetReason() != "INCOMPATIBLE_WORKER" {
			t.Errorf("protocol %d, to re-adopt: got %v, want INCOMPATIBLE_WORKER", tt.protocol, err)
		}
	}
}

func reasonOf(err error) *errdetails.ErrorInfo {
	info, _, _ := details(err)
	return info
}
