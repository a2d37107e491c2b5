package rpc

import (
	"context"
	"errors"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/leasehold/leasehold/controlplane/audit"
	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/publish"
	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
)

// domain is who the reasons in ErrorInfo belong to.
const domain = "leasehold"

// retryAfter is when a caller that got UNAVAILABLE should try again.
const retryAfter = 500 * time.Millisecond

// outcome is what callers are told of an error.
type outcome struct {
	err    error
	code   codes.Code
	reason string
}

// outcomes are the errors that callers are told of, in their sentinel's words.
var outcomes = []outcome{
	{session.ErrNotFound, codes.NotFound, "SESSION_NOT_FOUND"},
	{session.ErrHeld, codes.FailedPrecondition, "HELD"},
	{session.ErrStale, codes.Aborted, "STALE"},
	{session.ErrEnded, codes.FailedPrecondition, "ENDED"},
	{session.ErrNotAlive, codes.FailedPrecondition, "NOT_ALIVE"},
	{session.ErrTargetNotAlive, codes.FailedPrecondition, "TARGET_NOT_ALIVE"},
	{session.ErrOwnerAlive, codes.FailedPrecondition, "OWNER_ALIVE"},
	{session.ErrOwnerUncertain, codes.FailedPrecondition, "OWNER_UNCERTAIN"},
	{session.ErrHolding, codes.Unavailable, "HOLDING"},
	{session.ErrCondemned, codes.FailedPrecondition, "CONDEMNED"},
	{session.ErrLeaseLost, codes.NotFound, "LEASE_LOST"},
	{session.ErrForeign, codes.PermissionDenied, "NOT_YOUR_WORKER"},
	{errForbidden, codes.PermissionDenied, "ROLE_NOT_ALLOWED"},
	{errIncompatible, codes.FailedPrecondition, "INCOMPATIBLE_WORKER"},
	{session.ErrWorkerNotFound, codes.NotFound, "WORKER_NOT_FOUND"},
	{session.ErrWorkerAlive, codes.FailedPrecondition, "ALIVE"},
	{session.ErrPinned, codes.FailedPrecondition, "PINNED"},
	{session.ErrInUse, codes.FailedPrecondition, "BUSY"},
	{session.ErrNobodyTakes, codes.Unavailable, "NOBODY_TAKES"},
	{session.ErrOwnerSilent, codes.Unavailable, "OWNER_SILENT"},
	{gateway.ErrNotFound, codes.NotFound, "GATEWAY_NOT_FOUND"},
	{gateway.ErrExists, codes.AlreadyExists, "GATEWAY_EXISTS"},
	{gateway.ErrETagMismatch, codes.Aborted, "ETAG_MISMATCH"},
	{gateway.ErrLocked, codes.FailedPrecondition, "SECRETS_LOCKED"},
	{store.ErrOtherRootKey, codes.FailedPrecondition, "OTHER_ROOT_KEY"},
	{gateway.ErrUnknownThere, codes.FailedPrecondition, "NOT_APPLIED"},
	{gateway.ErrInspecting, codes.ResourceExhausted, "TOO_MANY_INSPECTIONS"},
	{gateway.ErrNobodyInspects, codes.Unavailable, "NOBODY_INSPECTS"},
	{store.ErrBusy, codes.ResourceExhausted, "TOO_MANY_WAITING"},
	{store.ErrFull, codes.ResourceExhausted, "STORE_FULL"},
	{store.ErrTooManyEndings, codes.ResourceExhausted, "TOO_MANY_ENDINGS"},
	{store.ErrTooManyPeers, codes.ResourceExhausted, "TOO_MANY_PEERS"},
	{store.ErrTooManyKeys, codes.ResourceExhausted, "TOO_MANY_KEYS"},
	{store.ErrNoRing, codes.Unavailable, "NO_KEY_RING"},
	{store.ErrCompacted, codes.OutOfRange, "COMPACTED"},
	{store.ErrFutureRevision, codes.OutOfRange, "FUTURE_REVISION"},
	{errSlowReader, codes.ResourceExhausted, "SLOW_READER"},
	{errTooManyWatches, codes.ResourceExhausted, "TOO_MANY_WATCHES"},
	{audit.ErrUnavailable, codes.Unavailable, "AUDIT_UNAVAILABLE"},
	{store.ErrUnavailable, codes.Unavailable, "STORE_UNAVAILABLE"},
	{publish.ErrStopped, codes.Unavailable, "STOPPING"},
	{publish.ErrBehind, codes.Unavailable, "BEHIND"},
	{context.DeadlineExceeded, codes.DeadlineExceeded, "DEADLINE_EXCEEDED"},
	{context.Canceled, codes.Canceled, "CANCELED"},
}

// toStatus is the one place where errors become status codes. An error that it
// does not know is INTERNAL, and the caller is told no more than that.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	var violations gateway.Violations
	if errors.As(err, &violations) && !errors.Is(err, gateway.ErrLocked) {
		return badRequest(violations)
	}
	var notApplied *errNotApplied
	if errors.As(err, &notApplied) {
		return notApplied.grpc()
	}
	for _, o := range outcomes {
		if errors.Is(err, o.err) {
			return o.status()
		}
	}
	return outcome{errors.New("internal error"), codes.Internal, "INTERNAL"}.status()
}

func (o outcome) status() error {
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: o.reason, Domain: domain}}
	if o.code == codes.Unavailable {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(retryAfter)})
	}
	return detailed(status.New(o.code, o.err.Error()), details...)
}

func badRequest(violations gateway.Violations) error {
	bad := &errdetails.BadRequest{}
	for _, v := range violations {
		bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: v.Field, Description: v.Description})
	}
	st := status.New(codes.InvalidArgument, violations.Error())
	return detailed(st, &errdetails.ErrorInfo{Reason: "INVALID_ARGUMENT", Domain: domain}, bad)
}

// detailed adds details to st. They always encode; if they did not, the code
// alone would still be right.
func detailed(st *status.Status, details ...protoadapt.MessageV1) error {
	with, err := st.WithDetails(details...)
	if err != nil {
		return st.Err()
	}
	return with.Err()
}

// invalid is what is wrong with one field of a request.
func invalid(field, description string) error {
	return gateway.Violations{{Field: field, Description: description}}
}
