package rpc

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/publish"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Bounds of a wait for workers.
const (
	leastWait   = 100 * time.Millisecond
	mostWait    = 5 * time.Minute
	defaultWait = 30 * time.Second
	// maxWaitWorkers bounds the workers in the details of an error.
	maxWaitWorkers = 100
	// maxNamed bounds the workers in its message.
	maxNamed = 5
)

// waiter is a request that may wait for all workers.
type waiter interface {
	GetWait() leaseholdv1.Wait
	GetWaitTimeout() *durationpb.Duration
}

// waitOf returns for how long a request waits for the workers; 0 for not at all.
func waitOf(req any) time.Duration {
	w, ok := req.(waiter)
	if !ok || w.GetWait() != leaseholdv1.Wait_WAIT_APPLIED {
		return 0
	}
	if w.GetWaitTimeout() == nil {
		return defaultWait
	}
	return max(leastWait, min(w.GetWaitTimeout().AsDuration(), mostWait))
}

// checkWait returns what is wrong with what a request says of its wait.
func checkWait(w waiter) gateway.Violations {
	var c check
	if _, known := leaseholdv1.Wait_name[int32(w.GetWait())]; !known {
		c.add("wait", "must be WAIT_STORED or WAIT_APPLIED; is %d", w.GetWait())
	}
	if d := w.GetWaitTimeout(); d != nil && (d.CheckValid() != nil || d.AsDuration() < leastWait || d.AsDuration() > mostWait) {
		c.add("wait_timeout", "must be %s to %s; is %s", leastWait, mostWait, d.AsDuration())
	}
	return c.violations
}

// errNotApplied says that workers have not applied a write. The write is done.
type errNotApplied struct {
	what     string
	status   *leaseholdv1.GatewayStatus
	rejected bool // by a worker; otherwise the time was up
}

// Error names the workers.
func (e *errNotApplied) Error() string {
	verb := "have not applied it in time"
	if e.rejected {
		verb = "cannot apply it"
	}
	var names []string
	for _, w := range e.status.GetWorkers() {
		switch {
		case e.rejected && store.Rejects(w):
			name := w.GetWorker()
			if why := strings.TrimPrefix(w.GetError().GetField()+": "+w.GetError().GetReason(), ": "); why != "" {
				name += " (" + why + ")"
			}
			names = append(names, name)
		case !e.rejected && w.GetState() != leaseholdv1.ApplyState_APPLY_STATE_APPLIED:
			names = append(names, w.GetWorker())
		}
	}
	if more := len(names) - maxNamed; more > 0 {
		names = append(names[:maxNamed], fmt.Sprintf("%d more", more))
	}
	if len(names) == 0 {
		return fmt.Sprintf("%s is stored at revision %d, but this replica could not find out in time who has applied it", e.what, e.status.GetRevision())
	}
	return fmt.Sprintf("%s is stored at revision %d, but %d of %d workers have applied it, and these %s: %s",
		e.what, e.status.GetRevision(), e.status.GetWorkersApplied(), e.status.GetWorkersTotal(), verb, strings.Join(names, ", "))
}

// grpc is what callers are told.
func (e *errNotApplied) grpc() error {
	code, reason := codes.DeadlineExceeded, "NOT_APPLIED"
	if e.rejected {
		code, reason = codes.FailedPrecondition, "REJECTED"
	}
	shown := proto.CloneOf(e.status)
	if len(shown.Workers) > maxWaitWorkers {
		shown.Workers = slices.DeleteFunc(shown.Workers, func(w *leaseholdv1.GatewayWorker) bool {
			return w.GetState() == leaseholdv1.ApplyState_APPLY_STATE_APPLIED
		})
		shown.Workers = shown.Workers[:min(len(shown.Workers), maxWaitWorkers)]
	}
	return detailed(status.New(code, e.Error()), &errdetails.ErrorInfo{Reason: reason, Domain: domain}, shown)
}

// awaitApplied waits until every living worker has applied what was written at
// status.Revision, if the request wants it, and completes the status. Who is alive
// may change meanwhile: it is asked anew with every change.
func awaitApplied(ctx context.Context, hub *publish.Hub, req waiter, name string, status *leaseholdv1.GatewayStatus) error {
	patience := waitOf(req)
	if patience == 0 {
		return nil
	}
	id, _ := gateway.ParseName(name)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	rejected := false
	err := hub.Await(ctx, func(snap *store.Snapshot) bool {
		store.Fill(status, id, store.Newest(snap.Members))
		rejected = slices.ContainsFunc(status.Workers, store.Rejects)
		return snap.Revision >= status.Revision && (rejected || status.WorkersApplied == status.WorkersTotal)
	})
	if rejected || errors.Is(err, context.DeadlineExceeded) {
		return &errNotApplied{name, status, rejected}
	}
	return err
}
