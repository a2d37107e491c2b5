package controlplane_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/leasehold/leasehold/controlplane"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// operatorMethods are all methods of the services for operators.
func operatorMethods() (methods []protoreflect.MethodDescriptor) {
	for _, file := range []protoreflect.FileDescriptor{
		leaseholdv1.File_leasehold_v1_gateway_proto, leaseholdv1.File_leasehold_v1_session_proto, leaseholdv1.File_leasehold_v1_worker_proto,
	} {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for j := range service.Methods().Len() {
				methods = append(methods, service.Methods().Get(j))
			}
		}
	}
	return methods
}

// call calls a method, unary or server streaming, and returns its error.
func call(ctx context.Context, conn *grpc.ClientConn, method protoreflect.MethodDescriptor, req proto.Message) error {
	name := "/" + string(method.Parent().FullName()) + "/" + string(method.Name())
	resp := dynamicpb.NewMessage(method.Output())
	if !method.IsStreamingServer() {
		return conn.Invoke(ctx, name, req, resp)
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, name)
	if err == nil {
		err = stream.SendMsg(req)
	}
	return errors.Join(err, stream.CloseSend(), stream.RecvMsg(resp))
}

// fill sets every field of a request that set has a value for.
func fill(method protoreflect.MethodDescriptor, set func(protoreflect.FieldDescriptor) any) proto.Message {
	req := dynamicpb.NewMessage(method.Input())
	for i := range method.Input().Fields().Len() {
		field := method.Input().Fields().Get(i)
		if v := set(field); v != nil {
			req.Set(field, protoreflect.ValueOf(v))
		}
	}
	return req
}

// details are the parts of an error that callers act on.
func details(err error) (info *errdetails.ErrorInfo, retry *errdetails.RetryInfo, bad *errdetails.BadRequest) {
	for _, d := range status.Convert(err).Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			info = d
		case *errdetails.RetryInfo:
			retry = d
		case *errdetails.BadRequest:
			bad = d
		}
	}
	return info, retry, bad
}

func TestEveryOperatorErrorSaysWhatIsWrongWithEveryField(t *testing.T) {
	r := start(t, embedded(t))
	methods := operatorMethods()
	if len(methods) < 13 {
		t.Fatalf("found %d methods", len(methods))
	}
	for _, method := range methods {
		checked := 0
		req := fill(method, func(f protoreflect.FieldDescriptor) any {
			checked++
			switch {
			case f.Name() == "etag" || f.Name() == "gateway_id":
			case f.Kind() == protoreflect.StringKind:
				return "= bad"
			case f.Kind() == protoreflect.Int32Kind:
				return int32(-1)
			case f.Kind() == protoreflect.Int64Kind:
				return int64(-1)
			case f.Kind() == protoreflect.MessageKind && f.Name() == "gateway":
				return (&leaseholdv1.Gateway{Name: "bad"}).ProtoReflect()
			}
			checked--
			return nil
		})
		err := call(testContext(t), r.conn, method, req)
		info, _, bad := details(err)
		if status.Code(err) != codes.InvalidArgument || info.GetDomain() != "leasehold" || info.GetReason() != "INVALID_ARGUMENT" || len(bad.GetFieldViolations()) < checked {
			t.Errorf("%s: %v with %v and %v, want INVALID_ARGUMENT with %d violations", method.Name(), err, info, bad, checked)
		}
	}
}

func TestEveryOperatorCallSaysThatTheStoreIsAway(t *testing.T) {
	r := launch(t, controlplane.Config{EtcdEndpoints: []string{"http://127.0.0.1:1"}, RootKeyFile: writeRootKey(t, "0a")})
	<-r.ready // it told that it is not
	ctx := testContext(t)
	var group sync.WaitGroup
	for _, method := range operatorMethods() {
		req := fill(method, func(f protoreflect.FieldDescriptor) any {
			switch {
			case f.Name() == "name" && method.Parent().Name() == "SessionService":
				return "gateways/g/sessions/" + digest
			case f.Name() == "name" && method.Parent().Name() == "WorkerService":
				return "workers/" + workerA
			case f.Name() == "name":
				return "gateways/g"
			case f.Name() == "gateway":
				return counter("g").ProtoReflect()
			}
			return nil
		})
		group.Go(func() {
			began := time.Now()
			err := call(ctx, r.conn, method, req)
			info, retry, _ := details(err)
			if status.Code(err) != codes.Unavailable || info.GetDomain() != "leasehold" || info.GetReason() == "" || retry.GetRetryDelay().AsDuration() <= 0 {
				t.Errorf("%s: %v with %v and %v, want UNAVAILABLE, a reason, and when to try again", method.Name(), err, info, retry)
			}
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("%s took %s to say so", method.Name(), took)
			}
		})
	}
	group.Wait()
}

func TestPageTokensBelongToTheirFilter(t *testing.T) {
	r := start(t, embedded(t))
	ctx := testContext(t)
	for _, id := range []string{"a", "b", "c"} {
		g := counter(id)
		g.Labels = map[string]string{"env": "prod"}
		r.create(t, g)
	}
	r.create(t, counter("other"))
	list := func(filter, token string) (*leaseholdv1.ListGatewaysResponse, error) {
		return r.gateways.ListGateways(ctx, &leaseholdv1.ListGatewaysRequest{PageSize: 2, Filter: filter, PageToken: token})
	}
	first, err := list(`labels.env = "prod"`, "")
	if err != nil || len(first.Gateways) != 2 || first.NextPageToken == "" {
		t.Fatalf("first page: %v, %v", first, err)
	}
	for _, other := range []string{"", "labels.env:*"} {
		_, err := list(other, first.NextPageToken)
		if got := wantStatus(t, err, codes.InvalidArgument, "INVALID_ARGUMENT"); len(got) != 1 || got[0] != "page_token" {
			t.Errorf("filter %q with another's token names %v, want page_token", other, got)
		}
	}
	rest, err := list(`labels.env = "prod"`, first.NextPageToken)
	if err != nil || len(rest.Gateways) != 1 || rest.Gateways[0].Name != "gateways/c" || rest.NextPageToken != "" {
		t.Errorf("second page: %v, %v", rest, err)
	}

	w := r.register(t, workerA)
	r.claim(t, "a", digest, workerA, w.Incarnation)
	r.claim(t, "b", digest, workerA, w.Incarnation)
	one, err := r.sessions.ListSessions(ctx, &leaseholdv1.ListSessionsRequest{PageSize: 1, Filter: "owner = " + workerA})
	if err != nil || len(one.Sessions) != 1 || one.NextPageToken == "" {
		t.Fatalf("sessions: %v, %v", one, err)
	}
	_, err = r.sessions.ListSessions(ctx, &leaseholdv1.ListSessionsRequest{PageSize: 1, Filter: "class = resumable", PageToken: one.NextPageToken})
	wantStatus(t, err, codes.InvalidArgument, "INVALID_ARGUMENT")
	two, err := r.sessions.ListSessions(ctx, &leaseholdv1.ListSessionsRequest{PageSize: 5, Filter: "owner = " + workerA, PageToken: one.NextPageToken})
	if err != nil || len(two.Sessions) != 1 || two.Sessions[0].Name != "gateways/b/sessions/"+digest {
		t.Errorf("sessions: %v, %v", two, err)
	}
}
