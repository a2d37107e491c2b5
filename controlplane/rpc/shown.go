package rpc

import (
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/controlplane/gateway"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// workersOnly begins the names of the methods whose answers have the values of
// secrets: workers cannot do without.
var workersOnly = "/" + leaseholdv1.ControlService_ServiceDesc.ServiceName + "/"

// shown returns an answer of a method as its caller may see it: nobody but workers
// is told the value of a secret, whichever method it would be in.
func shown(method string, answer any) any {
	m, ok := answer.(proto.Message)
	if !ok || !strings.HasPrefix(method, ourMethods) || strings.HasPrefix(method, workersOnly) {
		return answer
	}
	return gateway.Shown(m)
}

// shownStream is a stream whose messages are sent as shown has them.
type shownStream struct {
	grpc.ServerStream
	method string
}

// SendMsg implements grpc.ServerStream.
func (s shownStream) SendMsg(m any) error { return s.ServerStream.SendMsg(shown(s.method, m)) }
