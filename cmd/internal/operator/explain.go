package operator

import (
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// rpcError is an answer of the control plane, told for people.
type rpcError struct {
	text string
	err  error
}

func (e *rpcError) Error() string { return e.text }
func (e *rpcError) Unwrap() error { return e.err }

// Explain tells an error of the control plane for people: its text, then one
// line for each field that is wrong. Other errors, and nil, come back as they are.
func Explain(err error) error {
	st, ok := status.FromError(err)
	if err == nil || !ok {
		return err
	}
	lines := []string{headline(st)}
	for _, detail := range st.Details() {
		bad, ok := detail.(*errdetails.BadRequest)
		if !ok {
			continue
		}
		for _, violation := range bad.GetFieldViolations() {
			lines = append(lines, "  "+violation.GetField()+": "+violation.GetDescription())
		}
	}
	return &rpcError{text: strings.Join(lines, "\n"), err: err}
}

func headline(st *status.Status) string {
	switch st.Code() {
	case codes.DeadlineExceeded:
		return "no answer in time (--timeout): " + st.Message()
	case codes.Unavailable:
		return "the control plane cannot serve now: " + st.Message()
	case codes.Unimplemented:
		return "the control plane does not know this call; is it of another version? " + st.Message()
	}
	return st.Message()
}

// Code returns the status code of an error of the control plane.
func Code(err error) codes.Code { return status.Code(err) }
