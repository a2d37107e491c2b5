package controlplane_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// wantStatus checks an error's code and reason, and returns the fields that it
// names.
func wantStatus(t *testing.T, err error, code codes.Code, reason string) (fields []string) {
	t.Helper()
	st := status.Convert(err)
	got := ""
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			got = d.Reason
			if d.Domain != "leasehold" {
				t.Errorf("domain %q, want leasehold", d.Domain)
			}
		case *errdetails.BadRequest:
			for _, v := range d.FieldViolations {
				fields = append(fields, v.Field)
			}
		}
	}
	if st.Code() != code || got != reason {
		t.Errorf("got %v %q (%v), want %v %q", st.Code(), got, err, code, reason)
	}
	return fields
}

func TestGatewaysFromCreateToDelete(t *testing.T) {
	r := start(t, embedded(t))
	ctx := testContext(t)
	created := r.create(t, counter("one"))
	if created.Etag == "" || created.CreateTime == nil || created.Status.Revision == 0 || created.Session.IdleTimeout.AsDuration().Minutes() != 30 {
		t.Errorf("created %v, want etag, times, revision and defaults", created)
	}
	_, err := r.gateways.CreateGateway(ctx, &leaseholdv1.CreateGatewayRequest{Gateway: counter("one")})
	wantStatus(t, err, codes.AlreadyExists, "GATEWAY_EXISTS")

	change := &leaseholdv1.Gateway{Name: "gateways/one", Description: "new", Etag: created.Etag}
	mask := &fieldmaskpb.FieldMask{Paths: []string{"description"}}
	updated, err := r.gateways.UpdateGateway(ctx, &leaseholdv1.UpdateGatewayRequest{Gateway: change, UpdateMask: mask})
	if err != nil {
		t.Fatal(err)
	}
	if g := updated.Gateway; g.Description != "new" || g.Etag == created.Etag || len(g.Upstreams) != 1 || !g.CreateTime.AsTime().Equal(created.CreateTime.AsTime()) {
		t.Errorf("updated %v, want the new description and nothing else changed", g)
	}
	_, err = r.gateways.UpdateGateway(ctx, &leaseholdv1.UpdateGatewayRequest{Gateway: change, UpdateMask: mask})
	wantStatus(t, err, codes.Aborted, "ETAG_MISMATCH")
	change.Etag = ""
	same, err := r.gateways.UpdateGateway(ctx, &leaseholdv1.UpdateGatewayRequest{Gateway: change, UpdateMask: mask})
	if err != nil || same.Gateway.Etag != updated.Gateway.Etag {
		t.Errorf("an update that changes nothing: %v, %v; want the same etag", same, err)
	}

	_, err = r.gateways.DeleteGateway(ctx, &leaseholdv1.DeleteGatewayRequest{Name: "gateways/one", Etag: created.Etag})
	wantStatus(t, err, codes.Aborted, "ETAG_MISMATCH")
	if _, err := r.gateways.DeleteGateway(ctx, &leaseholdv1.DeleteGatewayRequest{Name: "gateways/one", Etag: updated.Gateway.Etag}); err != nil {
		t.Fatal(err)
	}
	_, err = r.gateways.DeleteGateway(ctx, &leaseholdv1.DeleteGatewayRequest{Name: "gateways/one"})
	wantStatus(t, err, codes.NotFound, "GATEWAY_NOT_FOUND")
	_, err = r.gateways.GetGateway(ctx, &leaseholdv1.GetGatewayRequest{Name: "gateways/one"})
	wantStatus(t, err, codes.NotFound, "GATEWAY_NOT_FOUND")
	_, err = r.gateways.UpdateGateway(ctx, &leaseholdv1.UpdateGatewayRequest{Gateway: change})
	wantStatus(t, err, codes.NotFound, "GATEWAY_NOT_FOUND")
}

func TestBadGatewayRequestsNameEveryField(t *testing.T) {
	r := start(t, embedded(t))
	ctx := testContext(t)
	r.create(t, counter("one"))
	bad := &leaseholdv1.Gateway{
		Name:        "gateways/Bad",
		Description: strings.Repeat("x", 2000),
		Upstreams:   []*leaseholdv1.Upstream{{Name: "u", Url: "ftp://secret-host/"}},
		Session:     &leaseholdv1.SessionPolicy{IdleTimeout: durationpb.New(0)},
	}
	all := []string{"gateway.name", "gateway.description", "gateway.upstreams[0].url", "gateway.session.idle_timeout"}
	tests := []struct {
		name string
		call func() error
		want []string
	}{
		{"create nothing", func() error {
			_, err := r.gateways.CreateGateway(ctx, &leaseholdv1.CreateGatewayRequest{})
			return err
		}, []string{"gateway"}},
		{"create bad", func() error {
			_, err := r.gateways.CreateGateway(ctx, &leaseholdv1.CreateGatewayRequest{Gateway: bad})
			return err
		}, all},
		{"create under two names", func() error {
			_, err := r.gateways.CreateGateway(ctx, &leaseholdv1.CreateGatewayRequest{GatewayId: "two", Gateway: counter("one")})
			return err
		}, []string{"gateway_id"}},
		{"get", func() error {
			_, err := r.gateways.GetGateway(ctx, &leaseholdv1.GetGatewayRequest{Name: "one"})
			return err
		}, []string{"name"}},
		{"update mask", func() error {
			_, err := r.gateways.UpdateGateway(ctx, &leaseholdv1.UpdateGatewayRequest{
				Gateway: &leaseholdv1.Gateway{Name: "one"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"etag", "x"}},
			})
			return err
		}, []string{"update_mask.paths[0]", "update_mask.paths[1]", "gateway.name"}},
		{"update to bad", func() error {
			_, err := r.gateways.UpdateGateway(ctx, &leaseholdv1.UpdateGatewayRequest{
				Gateway: &leaseholdv1.Gateway{Name: "gateways/one", Description: bad.Description}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"description"}},
			})
			return err
		}, []string{"gateway.description"}},
		{"page size", func() error {
			_, err := r.gateways.ListGateways(ctx, &leaseholdv1.ListGatewaysRequest{PageSize: -1})
			return err
		}, []string{"page_size"}},
		{"page token", func() error {
			_, err := r.gateways.ListGateways(ctx, &leaseholdv1.ListGatewaysRequest{PageToken: "nonsense"})
			return err
		}, []string{"page_token"}},
		{"session name", func() error {
			_, err := r.sessions.GetSession(ctx, &leaseholdv1.GetSessionRequest{Name: "gateways/one/sessions/xyz"})
			return err
		}, []string{"name"}},
		{"session parent", func() error {
			_, err := r.sessions.ListSessions(ctx, &leaseholdv1.ListSessionsRequest{Parent: "one"})
			return err
		}, []string{"parent"}},
		{"worker name", func() error {
			_, err := r.workers.GetWorker(ctx, &leaseholdv1.GetWorkerRequest{Name: "workers/x"})
			return err
		}, []string{"name"}},
		{"register", func() error {
			_, err := r.control.Register(ctx, &leaseholdv1.RegisterRequest{Worker: "x"})
			return err
		}, []string{"worker", "info"}},
		{"claim", func() error {
			_, err := r.control.Claim(ctx, &leaseholdv1.ClaimRequest{Record: &leaseholdv1.SessionRecord{Epoch: 2, End: &leaseholdv1.SessionEnd{}}})
			return err
		}, []string{"gateway", "session", "record.worker", "record.incarnation", "record.end", "record.epoch"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.call()
			if got := wantStatus(t, err, codes.InvalidArgument, "INVALID_ARGUMENT"); !slices.Equal(got, tt.want) {
				t.Errorf("names %v, want %v", got, tt.want)
			}
			if strings.Contains(err.Error(), "secret-host") {
				t.Errorf("error shows a value: %v", err)
			}
		})
	}
}

func TestListsArePagedAndTokensStayWithTheirRequest(t *testing.T) {
	r := start(t, embedded(t))
	ctx := testContext(t)
	for i := range 7 {
		r.create(t, counter(fmt.Sprintf("g%d", i)))
	}
	var names []string
	token := ""
	for {
		resp, err := r.gateways.ListGateways(ctx, &leaseholdv1.ListGatewaysRequest{PageSize: 3, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range resp.Gateways {
			names = append(names, g.Name)
		}
		if token = resp.NextPageToken; token == "" {
			break
		}
		_, err = r.workers.ListWorkers(ctx, &leaseholdv1.ListWorkersRequest{PageToken: token})
		if got := wantStatus(t, err, codes.InvalidArgument, "INVALID_ARGUMENT"); !slices.Equal(got, []string{"page_token"}) {
			t.Errorf("a gateways' token at workers names %v, want page_token", got)
		}
	}
	if len(names) != 7 || !slices.IsSorted(names) {
		t.Errorf("listed %v, want 7 in order", names)
	}

	w := r.register(t, "00000000000000aa")
	r.register(t, "00000000000000bb")
	for i := range 5 {
		r.claim(t, "g1", fmt.Sprintf("%032x", i), "00000000000000aa", w.Incarnation)
	}
	first, err := r.sessions.ListSessions(ctx, &leaseholdv1.ListSessionsRequest{Parent: "gateways/g1", PageSize: 2})
	if err != nil || len(first.Sessions) != 2 || first.NextPageToken == "" {
		t.Fatalf("first page: %v, %v", first, err)
	}
	for _, other := range []*leaseholdv1.ListSessionsRequest{
		{Parent: "gateways/g2", PageToken: first.NextPageToken},
		{Parent: "gateways/-", PageToken: first.NextPageToken},
		{Parent: "gateways/g1", ShowEnded: true, PageToken: first.NextPageToken},
	} {
		_, err := r.sessions.ListSessions(ctx, other)
		wantStatus(t, err, codes.InvalidArgument, "INVALID_ARGUMENT")
	}
	rest, err := r.sessions.ListSessions(ctx, &leaseholdv1.ListSessionsRequest{Parent: "gateways/g1", PageToken: first.NextPageToken})
	if err != nil || len(rest.Sessions) != 3 || rest.NextPageToken != "" {
		t.Errorf("rest: %v, %v", rest, err)
	}
	workers, err := r.workers.ListWorkers(ctx, &leaseholdv1.ListWorkersRequest{PageSize: 1})
	if err != nil || len(workers.Workers) != 1 || workers.NextPageToken == "" {
		t.Fatalf("workers: %v, %v", workers, err)
	}
	workers, err = r.workers.ListWorkers(ctx, &leaseholdv1.ListWorkersRequest{PageSize: 1, PageToken: workers.NextPageToken})
	if err != nil || len(workers.Workers) != 1 || workers.Workers[0].Name != "workers/00000000000000bb" || workers.NextPageToken != "" {
		t.Errorf("workers: %v, %v", workers, err)
	}
}

func TestHealthAndReflectionAreServed(t *testing.T) {
	r := start(t, embedded(t))
	ctx := testContext(t)
	for _, service := range []string{"", "leasehold.v1.ControlService"} {
		resp, err := healthv1.NewHealthClient(r.conn).Check(ctx, &healthv1.HealthCheckRequest{Service: service})
		if err != nil || resp.Status != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: %v, %v; want SERVING", service, resp, err)
		}
	}
	stream, err := reflectionv1.NewServerReflectionClient(r.conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range resp.GetListServicesResponse().GetService() {
		names = append(names, s.Name)
	}
	for _, want := range []string{"leasehold.v1.GatewayService", "leasehold.v1.SessionService", "leasehold.v1.WorkerService", "leasehold.v1.ControlService"} {
		if !slices.Contains(names, want) {
			t.Errorf("reflection lists %v, want %s", names, want)
		}
	}
}
