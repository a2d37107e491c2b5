package observe

import (
	"context"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/leasehold/leasehold/controlplane/session"
	"github.com/leasehold/leasehold/controlplane/store"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// refusals are what an owner's reasons mean.
var refusals = map[string]error{
	"NOT_OWNER":        session.ErrStale,
	"PINNED":           session.ErrPinned,
	"BUSY":             session.ErrInUse,
	"ENDED":            session.ErrEnded,
	"NOT_ALIVE":        session.ErrNotAlive,
	"TARGET_NOT_ALIVE": session.ErrNotAlive,
}

// HandOver makes the owner hand a session over, and returns when it has or ctx ends. It
// returns session's ErrStale when the session is not its, ErrPinned, ErrInUse, ErrEnded,
// ErrNotAlive, ErrNobodyTakes, ErrOwnerSilent, or ctx's error: then it may yet happen.
func (o *Observer) HandOver(ctx context.Context, owner store.Member, req *leaseholdv1.HandOverNowRequest) error {
	c, err := o.conn(owner)
	if err != nil {
		return err
	}
	if _, err := leaseholdv1.NewPeerServiceClient(c).HandOverNow(ctx, req); err != nil {
		return fmt.Errorf("worker %s: %w: %w", owner.Worker, refusal(ctx, err), err)
	}
	return nil
}

func refusal(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	st := status.Convert(err)
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			if meant := refusals[info.Reason]; meant != nil {
				return meant
			}
			if st.Code() == codes.Unavailable {
				return session.ErrNobodyTakes
			}
		}
	}
	return session.ErrOwnerSilent
}
