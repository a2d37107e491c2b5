package forward

import (
	"context"
	"net"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// certified is a caller with a certificate.
type certified struct{ role, name string }

func (certified) AuthType() string { return "test" }
func (c certified) Role() string   { return c.role }
func (c certified) Name() string   { return c.name }

func TestEveryMethodHasARuleAndNoRuleIsForNothing(t *testing.T) {
	server := NewServer(nil, nil, hclog.NewNullLogger())
	methods := map[string]bool{}
	for service, info := range server.grpc.GetServiceInfo() {
		for _, method := range info.Methods {
			name := "/" + service + "/" + method.Name
			methods[name] = true
			if len(rules[name]) == 0 {
				t.Errorf("%s has no rule: say who may call it", name)
			}
		}
	}
	for name := range rules {
		if !methods[name] {
			t.Errorf("the rule for %s is for no method that there is", name)
		}
	}
}

func TestWhatIsNotAllowedIsRefused(t *testing.T) {
	var log strings.Builder
	a := access{log: hclog.New(&hclog.LoggerOptions{Output: &log})}
	from := func(c certified) context.Context {
		return grpcpeer.NewContext(t.Context(), &grpcpeer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, AuthInfo: c})
	}
	worker, plane := certified{roleWorker, "w"}, certified{roleControlPlane, "cp"}
	const probe, observe = leaseholdv1.PeerService_Probe_FullMethodName, leaseholdv1.PeerService_ObserveSessions_FullMethodName
	for name, c := range map[string]struct {
		ctx    context.Context
		method string
		want   codes.Code
	}{
		"a worker":                          {from(worker), probe, codes.OK},
		"the control plane":                 {from(plane), observe, codes.OK},
		"a worker in the plane's place":     {from(worker), observe, codes.PermissionDenied},
		"the control plane in a worker's":   {from(plane), probe, codes.PermissionDenied},
		"an operator":                       {from(certified{"operator", "o"}), probe, codes.PermissionDenied},
		"a certificate without role":        {from(certified{}), probe, codes.PermissionDenied},
		"a method without a rule":           {from(worker), "/leasehold.v1.PeerService/Burn", codes.PermissionDenied},
		"a connection without certificate":  {grpcpeer.NewContext(t.Context(), &grpcpeer.Peer{Addr: &net.TCPAddr{}}), probe, codes.PermissionDenied},
		"a call that came by no connection": {t.Context(), probe, codes.PermissionDenied},
	} {
		log.Reset()
		_, err := a.unary(c.ctx, nil, &grpc.UnaryServerInfo{FullMethod: c.method}, func(context.Context, any) (any, error) { return nil, nil })
		if status.Code(err) != c.want || (log.Len() > 0) != (c.want != codes.OK) {
			t.Errorf("%s: got %v, logged %q; want %v", name, err, log.String(), c.want)
		}
	}
}
