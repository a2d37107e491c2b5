package operator

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestUnreachableIsToldWithinThreeSeconds(t *testing.T) {
	closed := listen(t)
	_ = closed.Close()
	silent := listen(t) // accepts, never answers
	talking := listen(t)
	go func() {
		for {
			conn, err := talking.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			_ = conn.Close()
		}
	}()
	for name, c := range map[string]struct {
		addr net.Addr
		want string
	}{
		"nobody listens":    {closed.Addr(), "connection refused"},
		"nobody answers":    {silent.Addr(), "does not answer"},
		"it speaks no gRPC": {talking.Addr(), "does not speak gRPC"},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := Dial(t.Context(), []string{c.addr.String()}, nil)
			var unreachable *UnreachableError
			if !errors.As(err, &unreachable) {
				t.Fatalf("got %v, want an UnreachableError", err)
			}
			for _, want := range []string{c.want, c.addr.String(), "--control"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error lacks %q: %v", want, err)
				}
			}
			if took := time.Since(start); took > reach+time.Second {
				t.Errorf("took %v, want at most %v", took, reach)
			}
		})
	}
}

func TestSecondAddressIsTried(t *testing.T) {
	closed := listen(t)
	_ = closed.Close()
	listener := listen(t)
	server := grpc.NewServer()
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	defer func() { server.Stop(); <-done }()
	conn, err := Dial(t.Context(), []string{closed.Addr().String(), listener.Addr().String()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := conn.CanonicalTarget(); !strings.HasSuffix(got, listener.Addr().String()) {
		t.Errorf("connected to %q, want %q", got, listener.Addr())
	}
	_ = conn.Close()
}

func TestExplainNamesEveryField(t *testing.T) {
	st, err := status.New(codes.InvalidArgument, "gateway is not valid").WithDetails(&errdetails.BadRequest{
		FieldViolations: []*errdetails.BadRequest_FieldViolation{
			{Field: "gateway.upstreams[0].url", Description: "must be an absolute URL"},
			{Field: "gateway.description", Description: "is too long"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := "gateway is not valid\n  gateway.upstreams[0].url: must be an absolute URL\n  gateway.description: is too long"
	explained := Explain(st.Err())
	if explained.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", explained, want)
	}
	if Code(explained) != codes.InvalidArgument {
		t.Errorf("code after Explain: got %v, want InvalidArgument", Code(explained))
	}
	if Explain(nil) != nil {
		t.Error("Explain(nil) is not nil")
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return listener
}
