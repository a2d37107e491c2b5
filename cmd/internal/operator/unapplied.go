package operator

import (
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Unapplied reports whether err says of a write that it is done and stays, and that
// not every worker has applied it. The status that it returns says what each made of
// it, or is nil if the control plane did not say.
func Unapplied(err error) (*leaseholdv1.GatewayStatus, bool) {
	st, ok := status.FromError(err)
	if err == nil || !ok {
		return nil, false
	}
	var became *leaseholdv1.GatewayStatus
	unapplied := false
	for _, detail := range st.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			unapplied = detail.GetReason() == "NOT_APPLIED" || detail.GetReason() == "REJECTED"
		case *leaseholdv1.GatewayStatus:
			became = detail
		}
	}
	return became, unapplied
}
