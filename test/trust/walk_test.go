package trust

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
	"github.com/leasehold/leasehold/test/internal/cluster"
)

// Roles of certificates.
var roles = []string{"operator", "worker", "controlplane", "etcd"}

// allowed are the roles that may call the methods of each service, and those of
// methods that differ from their service.
var allowed = map[string]string{
	"leasehold.v1.GatewayService":               "operator",
	"leasehold.v1.SessionService":               "operator",
	"leasehold.v1.WorkerService":                "operator",
	"leasehold.v1.KeyService":                   "operator",
	"leasehold.v1.ControlService":               "worker",
	"leasehold.v1.PeerService":                  "worker",
	"leasehold.v1.PeerService/ObserveSessions":  "controlplane",
	"leasehold.v1.PeerService/ObserveLoad":      "controlplane worker",
	"leasehold.v1.PeerService/HandOverNow":      "controlplane",
	"leasehold.v1.PeerService/ObserveUpstreams": "controlplane",
	"leasehold.v1.PeerService/InspectNow":       "controlplane",
	"grpc.health.v1.Health":                     "operator worker controlplane etcd",
	"grpc.reflection.v1.ServerReflection":       "operator",
	"grpc.reflection.v1alpha.ServerReflection":  "operator",
}

// services are all services of ours, and those of gRPC that our servers have.
func services() []protoreflect.ServiceDescriptor {
	var all []protoreflect.ServiceDescriptor
	add := func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			all = append(all, file.Services().Get(i))
		}
		return true
	}
	protoregistry.GlobalFiles.RangeFilesByPackage(leaseholdv1.File_leasehold_v1_control_proto.Package(), add)
	add(healthv1.File_grpc_health_v1_health_proto)
	add(reflectionv1.File_grpc_reflection_v1_reflection_proto)
	add(reflectionv1alpha.File_grpc_reflection_v1alpha_reflection_proto)
	return all
}

func TestEveryRPCIsForItsRolesAndForNobodyElse(t *testing.T) {
	c := cluster.Test(t, cluster.Config{Workers: 1, Race: true})
	conns := map[string]map[string]*grpc.ClientConn{} // by role and address
	for _, role := range roles {
		issue(t, c, role, "guest-"+role)
		conns[role] = map[string]*grpc.ClientConn{}
		for _, address := range []string{c.Control[0].Address, c.Workers[0].Peer} {
			conns[role][address] = dial(t, c, address, "guest-"+role)
		}
	}
	walked := 0
	for _, service := range services() {
		address := c.Control[0].Address
		if service.FullName() == "leasehold.v1.PeerService" {
			address = c.Workers[0].Peer
		}
		for i := range service.Methods().Len() {
			walked++
			method := string(service.FullName()) + "/" + string(service.Methods().Get(i).Name())
			who, ok := allowed[method]
			if !ok {
				who, ok = allowed[string(service.FullName())]
			}
			if !ok {
				t.Errorf("%s has no line in this test: say who may call it", method)
			}
			for _, role := range roles {
				code := status.Code(call(t.Context(), conns[role][address], method))
				may := slices.Contains(strings.Fields(who), role)
				if refused := code == codes.PermissionDenied; refused == may {
					t.Errorf("%s by %s: got %v; want it allowed: %v", method, role, code, may)
				}
				if code == codes.Unavailable || code == codes.DeadlineExceeded {
					t.Errorf("%s by %s: got %v, want an answer", method, role, code)
				}
			}
		}
	}
	if walked < 40 {
		t.Errorf("walked %d methods, want all there are", walked)
	}
	logged(t, c.Control[0].Process, 1, "call was refused", "method=/leasehold.v1.GatewayService/DeleteGateway", "role=worker", "name=guest-worker")
	logged(t, c.Workers[0].Process, 1, "call was refused", "method=/leasehold.v1.PeerService/Forward", "role=operator", "name=guest-operator")
	for _, role := range roles {
		audited(t, c.Control[0], role, "guest-"+role)
	}
}

// audited looks for the line of an attempt to delete a gateway in the audit log.
func audited(t *testing.T, replica *cluster.Control, role, name string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(replica.DataDir, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var e struct{ Role, Name, Address, Method, Code string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if e.Role == role && e.Name == name && e.Method == "/"+leaseholdv1.GatewayService_ServiceDesc.ServiceName+"/DeleteGateway" {
			if (e.Code == "PERMISSION_DENIED") == (role == "operator") || e.Address == "" {
				t.Errorf("the audit log has %s", line)
			}
			return
		}
	}
	t.Errorf("the audit log has no line of %s %s", role, name)
}

// call calls a method of any kind with an empty request and returns the error of
// the first answer.
func call(ctx context.Context, conn *grpc.ClientConn, method string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, "/"+method)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&emptypb.Empty{}); err != nil {
		return stream.RecvMsg(&emptypb.Empty{})
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	return stream.RecvMsg(&emptypb.Empty{})
}
