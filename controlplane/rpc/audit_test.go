package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/leasehold/leasehold/controlplane/audit"
	"github.com/leasehold/leasehold/controlplane/gateway"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// auditLog returns a log in a file of the test's.
func auditLog(t testing.TB) *audit.Log {
	t.Helper()
	log, err := audit.Open(filepath.Join(t.TempDir(), "audit.log"), func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(log.Close)
	return log
}

// A call that changes something on a stream would have no line: there must be none.
func TestNoMethodThatChangesSomethingIsAStream(t *testing.T) {
	server := NewServer(Config{Audit: auditLog(t), Logger: hclog.NewNullLogger()})
	audited := 0
	for service, info := range server.GRPC().GetServiceInfo() {
		for _, method := range info.Methods {
			if changes("/" + service + "/" + method.Name) {
				audited++
				if method.IsClientStream || method.IsServerStream {
					t.Errorf("%s/%s is a stream", service, method.Name)
				}
			}
		}
	}
	if audited < 9 {
		t.Errorf("only %d methods are audited", audited)
	}
}

// TestEveryRequestSaysWhatItWouldChange makes a request of each kind with names in all
// of its fields, and wants one of them in the line.
func TestEveryRequestSaysWhatItWouldChange(t *testing.T) {
	without := []protoreflect.Name{"RotateSessionKey", "RotateRootKey", "RotateDataKeys"} // of all that there are
	protoregistry.GlobalFiles.RangeFilesByPackage("leasehold.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				method := service.Methods().Get(j)
				if !changes("/"+string(service.FullName())+"/"+string(method.Name())) || service.Name() == "PeerService" || slices.Contains(without, method.Name()) {
					continue
				}
				kind, err := protoregistry.GlobalTypes.FindMessageByName(method.Input().FullName())
				if err != nil {
					t.Fatal(err)
				}
				request := kind.New()
				name(request)
				if got := resource(request.Interface()); got != "gateways/named" {
					t.Errorf("the resource of %s is %q", method.FullName(), got)
				}
			}
		}
		return true
	})
}

// name fills in the names in a message and in the gateway in it.
func name(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	if f := fields.ByName("name"); f != nil {
		m.Set(f, protoreflect.ValueOfString("gateways/named"))
	}
	if f := fields.ByName("gateway"); f != nil && f.Message() != nil {
		name(m.Mutable(f).Message())
	}
}

// audited makes a call through an auditor and the guards, and returns its line.
func audited(t *testing.T, ctx context.Context, method string, request any, handle grpc.UnaryHandler) (audit.Entry, string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "audit.log")
	log, err := audit.Open(path, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	info := &grpc.UnaryServerInfo{FullMethod: method}
	_, err = auditor{log}.unary(ctx, request, info, func(ctx context.Context, req any) (any, error) {
		return newAccess(&registered{}, hclog.NewNullLogger()).unary(ctx, req, info, func(ctx context.Context, req any) (any, error) {
			return interceptor{hclog.NewNullLogger()}.unary(ctx, req, info, func(ctx context.Context, req any) (any, error) {
				if text, err := os.ReadFile(path); err != nil || len(text) > 0 {
					t.Errorf("before the call was carried out the log has %q, %v", text, err)
				}
				return handle(ctx, req)
			})
		})
	})
	text, readErr := os.ReadFile(path)
	if readErr != nil {
		t.Fatal(readErr)
	}
	var e audit.Entry
	if len(text) > 0 {
		if strings.Count(string(text), "\n") != 1 {
			t.Errorf("want one line, got %s", text)
		}
		if err := json.Unmarshal(text, &e); err != nil {
			t.Fatal(err)
		}
	}
	return e, string(text), err
}

func TestLineSaysWhoDidWhatAndWhatCameOfIt(t *testing.T) {
	const update = leaseholdv1.GatewayService_UpdateGateway_FullMethodName
	operator, worker := certified{roleOperator, "alice"}, certified{roleWorker, "w-1"}
	request := &leaseholdv1.UpdateGatewayRequest{Gateway: &leaseholdv1.Gateway{Name: "gateways/a"}, ValidateOnly: true}
	before, after := &leaseholdv1.Gateway{Name: "gateways/a"}, &leaseholdv1.Gateway{Name: "gateways/a", Description: "A", Status: &leaseholdv1.GatewayStatus{Revision: 7}}
	ctx := metadata.NewIncomingContext(operator.from(t), metadata.Pairs("x-request-id", "r-1"))
	e, _, err := audited(t, ctx, update, request, func(ctx context.Context, _ any) (any, error) {
		audit.Of(ctx).Changed(before, after)
		return &leaseholdv1.UpdateGatewayResponse{}, nil
	})
	if err != nil || e.Time.IsZero() || e.Address == "" {
		t.Errorf("got %+v, %v; want a time and an address", e, err)
	}
	e.Time, e.Address = e.Time.Truncate(1<<62), ""
	want := audit.Entry{Time: e.Time, RequestID: "r-1", Role: roleOperator, Name: "alice", Method: update, Resource: "gateways/a", ValidateOnly: true,
		Before: audit.Digest(before), After: audit.Digest(after), Revision: 7, Code: "OK"}
	if e != want {
		t.Errorf("got  %+v\nwant %+v", e, want)
	}

	e, _, err = audited(t, worker.from(t), update, request, nil)
	if status.Code(err) != codes.PermissionDenied || e.Role != roleWorker || e.Name != "w-1" || e.Code != "PERMISSION_DENIED" || e.Reason != "ROLE_NOT_ALLOWED" {
		t.Errorf("a worker's call: got %+v, %v; want it refused, and a line of who tried", e, err)
	}
	e, _, err = audited(t, operator.from(t), update, request, func(context.Context, any) (any, error) { return nil, gateway.ErrETagMismatch })
	if status.Code(err) != codes.Aborted || e.Code != "ABORTED" || e.Reason != "ETAG_MISMATCH" {
		t.Errorf("a call that fails: got %+v, %v", e, err)
	}
	e, _, _ = audited(t, operator.from(t), update, request, func(context.Context, any) (any, error) { panic("oops") })
	if e.Code != "INTERNAL" {
		t.Errorf("a call that panics: got %+v", e)
	}
	long := &leaseholdv1.UpdateGatewayRequest{Gateway: &leaseholdv1.Gateway{Name: strings.Repeat("\n", 1<<16)}}
	if _, line, _ := audited(t, operator.from(t), update, long, func(context.Context, any) (any, error) { return nil, gateway.ErrNotFound }); len(line) > 2000 {
		t.Errorf("a long name makes a line of %d bytes", len(line))
	}
	_, line, err := audited(t, operator.from(t), leaseholdv1.GatewayService_GetGateway_FullMethodName, &leaseholdv1.GetGatewayRequest{},
		func(context.Context, any) (any, error) { return &leaseholdv1.GetGatewayResponse{}, nil })
	if err != nil || line != "" {
		t.Errorf("a call that only looks: got the line %q, %v", line, err)
	}
}

func TestCallIsNotCarriedOutWhileTheLogCannotBeWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	log, err := audit.Open(path, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	call := func(method string) (handled bool, err error) {
		_, err = auditor{log}.unary(t.Context(), &leaseholdv1.DeleteGatewayRequest{}, &grpc.UnaryServerInfo{FullMethod: method},
			func(context.Context, any) (any, error) {
				handled = true
				return &leaseholdv1.DeleteGatewayResponse{}, nil
			})
		return handled, err
	}
	if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	const remove, get = leaseholdv1.GatewayService_DeleteGateway_FullMethodName, leaseholdv1.GatewayService_GetGateway_FullMethodName
	if _, err := call(remove); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "audit log") {
		t.Errorf("the call whose line could not be written: %v, want UNAVAILABLE", err)
	}
	handled, err := call(remove)
	if code, reason := told(err); handled || code != "UNAVAILABLE" || reason != "AUDIT_UNAVAILABLE" {
		t.Errorf("the next call: carried out %v, %v; want it refused with AUDIT_UNAVAILABLE", handled, err)
	}
	if handled, err := call(get); !handled || err != nil {
		t.Errorf("a call that only looks: carried out %v, %v; want it as ever", handled, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if handled, err := call(remove); !handled || err != nil {
		t.Errorf("once the log can be written: carried out %v, %v", handled, err)
	}
	text, err := os.ReadFile(path)
	if err != nil || strings.Count(string(text), "\n") != 2 {
		t.Errorf("the log has %q, %v; want the lines of both calls that were carried out", text, err)
	}
}
