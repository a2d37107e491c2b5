package linear

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// replica is a control plane that grants each claim, at the next revision.
type replica struct {
	leaseholdv1.UnimplementedControlServiceServer
	claims atomic.Int64
}

func (r *replica) Claim(context.Context, *leaseholdv1.ClaimRequest) (*leaseholdv1.ClaimResponse, error) {
	return &leaseholdv1.ClaimResponse{Revision: r.claims.Add(1)}, nil
}

// listening starts a server that stops with the test, and returns a connection to it.
func listening(t *testing.T, server *grpc.Server) *grpc.ClientConn {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	conn, err := dial(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// paved is a road to a replica, and a client at the worker's end of it.
func paved(t *testing.T, r *replica) (*road, leaseholdv1.ControlServiceClient) {
	t.Helper()
	server := grpc.NewServer()
	leaseholdv1.RegisterControlServiceServer(server, r)
	road := newRoad(newRecorder(), "worker0")
	way := lane{road, listening(t, server)}
	return road, leaseholdv1.NewControlServiceClient(listening(t, grpc.NewServer(grpc.UnknownServiceHandler(way.handle))))
}

func TestRecorderWritesDownWhatWasCarriedOut(t *testing.T) {
	request := &leaseholdv1.ClaimRequest{Gateway: "g", Session: "s", Record: &leaseholdv1.SessionRecord{Worker: first, Incarnation: 1, Epoch: 1}}
	for name, c := range map[string]struct {
		plan    plan
		code    codes.Code
		carried int
	}{
		"nothing is wrong":       {plan{}, codes.OK, 1},
		"the request is lost":    {plan{lost: true}, codes.Unavailable, 0},
		"the answer is lost":     {plan{unanswered: true}, codes.Unavailable, 1},
		"the request is doubled": {plan{again: []time.Duration{time.Hour}}, codes.OK, 2},
	} {
		r := &replica{}
		road, worker := paved(t, r)
		road.use(func(call) plan { return c.plan })
		if _, err := worker.Claim(t.Context(), request); status.Code(err) != c.code {
			t.Errorf("%s: the worker is told %v, want %v", name, err, c.code)
		}
		road.recorder.finish()
		if got := int(r.claims.Load()); got != c.carried {
			t.Errorf("%s: carried out %d times, want %d", name, got, c.carried)
		}
		operations := road.recorder.all()
		if len(operations) != c.carried {
			t.Errorf("%s: %v written down, want %d operations", name, operations, c.carried)
		}
		for i, op := range operations {
			want := operation{Method: claim, Session: "g/s", Process: "worker0", Worker: first, Incarnation: 1, Epoch: 1,
				Late: i > 0, Call: op.Call, Return: op.Return, Outcome: done, Got: answer{Revision: int64(i + 1)}}
			if op != want || op.Call >= op.Return {
				t.Errorf("%s: got %+v, want %+v", name, op, want)
			}
		}
	}
}

func TestNothingPassesASeveredRoad(t *testing.T) {
	r := &replica{}
	road, worker := paved(t, r)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	road.sever()
	if _, err := worker.Claim(ctx, &leaseholdv1.ClaimRequest{}); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("the worker is told %v, want that time ran out", err)
	}
	if got := r.claims.Load(); got != 0 {
		t.Errorf("carried out %d times, want 0", got)
	}
	road.heal()
	if _, err := worker.Claim(t.Context(), &leaseholdv1.ClaimRequest{}); err != nil {
		t.Errorf("after it is healed: %v", err)
	}
}

func TestRequestOfAnUnknownOutcomeIsWrittenDownAsSuch(t *testing.T) {
	stopped := newRoad(newRecorder(), "worker0")
	conn, err := dial("127.0.0.1:1") // nobody listens there
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := (lane{stopped, conn}).carry(t.Context(), call{stopped, claim, &leaseholdv1.ClaimRequest{}}, false); err == nil {
		t.Fatal("a claim without a control plane succeeds")
	}
	if all := stopped.recorder.all(); len(all) != 1 || all[0].Outcome != unknown || all[0].Return != never {
		t.Errorf("got %+v, want one operation that may yet be carried out", all)
	}
}
