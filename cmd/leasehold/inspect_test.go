package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// inspector is a control plane that inspects gateways as it is told.
type inspector struct {
	leaseholdv1.UnimplementedGatewayServiceServer
	answer *leaseholdv1.InspectGatewayResponse
	err    error
	asked  *leaseholdv1.InspectGatewayRequest
}

func (i *inspector) InspectGateway(_ context.Context, request *leaseholdv1.InspectGatewayRequest) (*leaseholdv1.InspectGatewayResponse, error) {
	i.asked = request
	return i.answer, i.err
}

func (i *inspector) run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	leaseholdv1.RegisterGatewayServiceServer(server, i)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	defer func() { server.Stop(); <-done }()
	return call(t, "", append(append([]string{"inspect", "gateway"}, args...), "--control", listener.Addr().String())...)
}

func step(kind string, failed, detail string) *leaseholdv1.InspectionStep {
	return &leaseholdv1.InspectionStep{
		Kind:     leaseholdv1.InspectionStepKind(leaseholdv1.InspectionStepKind_value["INSPECTION_STEP_KIND_"+kind]),
		Duration: durationpb.New(1234567 * time.Nanosecond), Error: failed, Detail: detail,
	}
}

// looked is an inspection with everything in it.
func looked() *leaseholdv1.InspectGatewayResponse {
	return &leaseholdv1.InspectGatewayResponse{Worker: "workers/" + workerA, Revision: 42, NewestRevision: 43, Upstreams: []*leaseholdv1.UpstreamInspection{{
		Upstream: "up", ServerName: "notes", ServerTitle: "Notes\x1b[2J", ServerVersion: "1.2", ProtocolVersion: "2025-11-25",
		Era: leaseholdv1.InspectedEra_INSPECTED_ERA_STATEFUL, SupportedVersions: []string{"2025-11-25"}, SessionId: true, InstructionsBytes: 120,
		Capabilities: []string{"tools", "tools.listChanged"},
		Steps:        []*leaseholdv1.InspectionStep{step("CREDENTIAL", "", ""), step("RESOLVE", "", ""), step("DISCOVER", "", "no version without sessions: the server answered HTTP 400")},
		Tools: &leaseholdv1.InspectedList{Cut: "500 are shown", Items: []*leaseholdv1.InspectedItem{
			{Name: "add", Description: strings.Repeat("adds\n", 40)}, {Name: strings.Repeat("n", 128), Title: "Long"}, {}}},
		Resources: &leaseholdv1.InspectedList{Items: []*leaseholdv1.InspectedItem{{Name: "all", Uri: "notes://all/" + strings.Repeat("u", 100)}}},
		Prompts:   &leaseholdv1.InspectedList{},
		Findings:  []*leaseholdv1.InspectionFinding{{Subject: "tools[2]", Reason: "has no name"}, {Reason: "it does not say what it is called"}},
	}}}
}

func TestInspectShowsWhatWasFound(t *testing.T) {
	i := &inspector{answer: looked()}
	code, stdout, stderr := i.run(t, "notes")
	if code != exitOK || stderr != "" || i.asked.GetName() != "gateways/notes" || i.asked.GetWorker() != "" {
		t.Errorf("got exit code %d, %q after %v", code, stderr, i.asked)
	}
	golden(t, "inspect.txt", stdout)
}

func TestInspectFailsWithTheStepThatFailed(t *testing.T) {
	i := &inspector{answer: looked()}
	i.answer.Upstreams[0].Steps = append(i.answer.Upstreams[0].Steps, step("TLS", "x509: certificate signed by unknown authority", ""), step("END", "later", ""))
	for _, output := range []string{"table", "json", "yaml"} {
		code, stdout, stderr := i.run(t, "gateways/notes", "--worker", workerB, "-o", output)
		if code != exitFailed || stderr != "error: gateways/notes: upstream up: tls: x509: certificate signed by unknown authority\n" || !strings.Contains(stdout, "unknown authority") {
			t.Errorf("%s: got exit code %d, %q and %q", output, code, stdout, stderr)
		}
		if i.asked.GetWorker() != "workers/"+workerB {
			t.Errorf("asked for %v", i.asked)
		}
		if output == "json" && !json.Valid([]byte(stdout)) {
			t.Errorf("got %s, want JSON", stdout)
		}
	}
	i = &inspector{err: status.Error(codes.NotFound, "no such gateway")}
	if code, stdout, stderr := i.run(t, "notes"); code != exitFailed || stdout != "" || stderr != "error: gateways/notes: no such gateway\n" {
		t.Errorf("got exit code %d, %q and %q", code, stdout, stderr)
	}
}

func TestDescribeGatewaySaysHowWorkersSeeItsUpstream(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	gateway := &leaseholdv1.Gateway{Name: "gateways/notes", Upstreams: []*leaseholdv1.Upstream{{Name: "up", Url: "https://notes.example/mcp"}}, Status: &leaseholdv1.GatewayStatus{
		Upstreams: []*leaseholdv1.UpstreamStatus{{Name: "up", Workers: []*leaseholdv1.UpstreamWorker{
			{Worker: "workers/" + workerA, State: leaseholdv1.UpstreamState_UPSTREAM_STATE_HEALTHY, Since: timestamppb.New(now.Add(-3 * time.Hour))},
			{Worker: "workers/" + workerB, State: leaseholdv1.UpstreamState_UPSTREAM_STATE_EJECTED, Since: timestamppb.New(now.Add(-time.Minute)), LastError: "ping: the server answered HTTP 500",
				Circuits: []*leaseholdv1.UpstreamCircuit{
					{Address: "192.0.2.1:443", State: leaseholdv1.CircuitState_CIRCUIT_STATE_OPEN, Failures: 7, LastError: "connection refused", RetryTime: timestamppb.New(now.Add(9 * time.Second))},
					{Address: "192.0.2.2:443", State: leaseholdv1.CircuitState_CIRCUIT_STATE_HALF_OPEN, Failures: 5, LastError: "connection refused"},
					{Address: "192.0.2.3:443", State: leaseholdv1.CircuitState_CIRCUIT_STATE_CLOSED, Failures: 1, LastError: "connection refused"},
				}},
			{Worker: "workers/1111111111111111", State: leaseholdv1.UpstreamState_UPSTREAM_STATE_UNKNOWN},
		}}},
	}}
	p := &page{now: now}
	describeGateway(p, gateway)
	_, upstream, _ := strings.Cut(p.text.String(), "Upstream up")
	golden(t, "describe_upstream.txt", upstream)
}

func TestInspectAgainstARunningControlPlane(t *testing.T) {
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	dev := startDev(t, t.TempDir())
	defer dev.stop()
	dev.do("name: dead\nupstreams: [{name: u, url: http://127.0.0.1:1/mcp}]\n", "apply", "-f", "-")
	worker := strings.Fields(dev.do("", "get", "workers", "-o", "name"))[0]
	for _, want := range []string{"Seen from           " + worker, "leasehold-demo", "counter_increment", "demo://counter", "greet", "2026-07-28", "  end "} {
		if got := dev.do("", "inspect", "gateway", "demo", "--worker", worker); !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if got := dev.do("", "get", "sessions", "-o", "name"); got != "" {
		t.Errorf("sessions: got %s, want none", got)
	}
	dev.fail("", "upstream u: connect: ", "inspect", "gateway", "dead")
	dev.fail("", "gateways/none: ", "inspect", "gateway", "none")
	if got := dev.do("", "describe", "gateway", "demo"); !strings.Contains(got, strings.TrimPrefix(worker, "workers/")+"  not asked  -") {
		t.Errorf("describe: got\n%s", got)
	}
}
