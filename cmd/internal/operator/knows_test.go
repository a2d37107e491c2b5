package operator

import (
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"
	"google.golang.org/protobuf/reflect/protoreflect"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func TestKnowsWhatTheControlPlaneSaysByReflection(t *testing.T) {
	for name, c := range map[string]struct {
		silent bool
		field  protoreflect.FullName
		want   bool
	}{
		"a field":                {false, "leasehold.v1.UpdateGatewayRequest.validate_only", true},
		"a field of a later API": {false, "leasehold.v1.UpdateGatewayRequest.from_the_future", false},
		"no reflection":          {true, "leasehold.v1.UpdateGatewayRequest.validate_only", false},
	} {
		t.Run(name, func(t *testing.T) {
			listener := listen(t)
			server := grpc.NewServer()
			leaseholdv1.RegisterGatewayServiceServer(server, leaseholdv1.UnimplementedGatewayServiceServer{})
			if !c.silent {
				reflection.Register(server)
			}
			done := make(chan struct{})
			go func() { defer close(done); _ = server.Serve(listener) }()
			defer func() { server.Stop(); <-done }()
			conn, err := Dial(t.Context(), []string{listener.Addr().String()}, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if got, err := Knows(t.Context(), conn, c.field); got != c.want || err != nil {
				t.Errorf("got %v, %v, want %v", got, err, c.want)
			}
		})
	}
}
