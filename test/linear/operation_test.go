package linear

import (
	"math"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// The methods of operations: those of the control plane, and one more.
const (
	register = "Register"
	readopt  = "Readopt"
	claim    = "Claim"
	resolve  = "Resolve"
	reclaim  = "Reclaim"
	handOver = "HandOver"
	save     = "Save"
	end      = "End"
	// dispatch is a request that reached the upstream.
	dispatch = "Dispatch"
)

// Outcomes that are not a reason of the control plane's.
const (
	done    = "done"
	unknown = "unknown" // it may have been carried out, and may still be
)

// holding is the one reason for which a call is not carried out now.
const holding = "HOLDING"

// never is when an operation with an unknown outcome returns.
const never = math.MaxInt64

// operation is one thing that happened, from one moment to another.
type operation struct {
	Method string `json:"method"`
	// Session is gateway/digest; empty for what concerns no session.
	Session string `json:"session,omitempty"`
	// Process is the worker process that asked, or that dispatched.
	Process string `json:"process"`
	// Worker and Incarnation are the owner as the request names it; of a Resolve, who
	// opened the session. A dispatch has no incarnation: nobody outside the process
	// knows it.
	Worker      string `json:"worker,omitempty"`
	Incarnation int64  `json:"incarnation,omitempty"`
	// To and ToIncarnation are the next owner.
	To            string `json:"to,omitempty"`
	ToIncarnation int64  `json:"to_incarnation,omitempty"`
	// Epoch is the request's.
	Epoch uint64 `json:"epoch,omitempty"`
	// Revision is the one that the request names.
	Revision int64 `json:"revision,omitempty"`
	// Request is the JSON-RPC id of what was dispatched.
	Request string `json:"request,omitempty"`
	// Unrecorded says that the session was opened without the control plane, and so
	// may have been used before it was recorded.
	Unrecorded bool `json:"unrecorded,omitempty"`
	// Late says that it is a repetition, which nobody waits for.
	Late bool `json:"late,omitempty"`
	// Call and Return bound the time at which it happened, in nanoseconds since
	// the world began.
	Call   int64 `json:"call"`
	Return int64 `json:"return"`
	// Outcome is done, a reason or unknown.
	Outcome string `json:"outcome"`
	// Got is what the answer says.
	Got answer `json:"got"`
}

// answer is the record in an answer.
type answer struct {
	Worker      string `json:"worker,omitempty"`
	Incarnation int64  `json:"incarnation,omitempty"`
	Epoch       uint64 `json:"epoch,omitempty"`
	Revision    int64  `json:"revision,omitempty"`
	Ended       bool   `json:"ended,omitempty"`
}

// asked returns the operation that a request asks for.
func asked(method string, request proto.Message) operation {
	op := operation{Method: method}
	switch r := request.(type) {
	case *leaseholdv1.RegisterRequest:
		op.Worker = r.GetWorker()
	case *leaseholdv1.ReadoptRequest:
		op.Worker, op.Incarnation = r.GetWorker(), r.GetIncarnation()
	case *leaseholdv1.ClaimRequest:
		op.Session = r.GetGateway() + "/" + r.GetSession()
		op.of(r.GetRecord())
	case *leaseholdv1.ResolveRequest:
		op.Session = r.GetGateway() + "/" + r.GetSession()
		op.Worker, op.Incarnation = r.GetOpenedBy().GetWorker(), r.GetOpenedBy().GetIncarnation()
	case *leaseholdv1.HandOverRequest:
		op.Session, op.Revision = r.GetGateway()+"/"+r.GetSession(), r.GetRevision()
		op.Worker, op.Incarnation = r.GetWorker(), r.GetIncarnation()
		op.To, op.ToIncarnation = r.GetTo().GetWorker(), r.GetTo().GetIncarnation()
	case *leaseholdv1.ReclaimRequest:
		op.Session = r.GetGateway() + "/" + r.GetSession()
		op.Worker, op.Incarnation, op.Revision = r.GetWorker(), r.GetIncarnation(), r.GetRevision()
	case *leaseholdv1.SaveRequest:
		op.Session, op.Revision = r.GetGateway()+"/"+r.GetSession(), r.GetRevision()
		op.of(r.GetRecord())
	case *leaseholdv1.EndRequest:
		op.Session = r.GetGateway() + "/" + r.GetSession()
		op.Worker, op.Incarnation = r.GetWorker(), r.GetIncarnation()
	}
	return op
}

// of takes the owner from a record.
func (op *operation) of(r *leaseholdv1.SessionRecord) {
	op.Worker, op.Incarnation, op.Epoch = r.GetWorker(), r.GetIncarnation(), r.GetEpoch()
}

// answered notes what an answer says.
func (op *operation) answered(response proto.Message, err error) {
	if op.Outcome = outcome(err); op.Outcome == unknown {
		op.Return = never
	}
	if op.Outcome != done {
		return
	}
	switch r := response.(type) {
	case *leaseholdv1.RegisterResponse:
		op.Incarnation = r.GetIncarnation()
	case *leaseholdv1.ClaimResponse:
		op.Got.Revision = r.GetRevision()
	case *leaseholdv1.ResolveResponse:
		op.Got = answerOf(r.GetRecord(), r.GetRevision())
	case *leaseholdv1.ReclaimResponse:
		op.Got = answerOf(r.GetRecord(), r.GetRevision())
	case *leaseholdv1.HandOverResponse:
		op.Got = answerOf(r.GetRecord(), r.GetRevision())
	case *leaseholdv1.SaveResponse:
		op.Got.Revision = r.GetRevision()
	case *leaseholdv1.EndResponse:
		op.Got.Revision = r.GetRevision()
	}
}

func answerOf(r *leaseholdv1.SessionRecord, revision int64) answer {
	return answer{r.GetWorker(), r.GetIncarnation(), r.GetEpoch(), revision, r.GetEnd() != nil}
}

// outcome returns done, the reason of a refusal, or unknown for every error that
// is no verdict.
func outcome(err error) string {
	s := status.Convert(err)
	reason := s.Code().String()
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			reason = info.GetReason()
		}
	}
	switch s.Code() {
	case codes.OK:
		return done
	case codes.NotFound, codes.Aborted, codes.FailedPrecondition, codes.InvalidArgument:
		return reason
	}
	if reason == holding {
		return reason
	}
	return unknown
}

// errLost is what the recorder tells a worker whose message or answer is lost.
var errLost = status.Error(codes.Unavailable, "lost by the recorder")
