package controlplane_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/leasehold/leasehold/controlplane"
	"github.com/leasehold/leasehold/controlplane/audit"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// lines are what a plane with a data directory has written into its audit log.
func lines(t testing.TB, cfg controlplane.Config) (entries []audit.Entry, text string) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(cfg.DataDir, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		var e audit.Entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		entries = append(entries, e)
	}
	return entries, string(raw)
}

// looks reports whether a method of operators only looks, by the rule of the API: all
// others change something.
func looks(method protoreflect.Name) bool {
	for _, prefix := range []string{"Get", "List", "Watch", "Inspect"} {
		if strings.HasPrefix(string(method), prefix) {
			return true
		}
	}
	return false
}

// TestEveryCallThatChangesSomethingHasALine makes every call of operators, with nothing
// in its request, and looks for its line: they are refused, and that has to be seen.
func TestEveryCallThatChangesSomethingHasALine(t *testing.T) {
	cfg := embedded(t)
	r := start(t, cfg)
	changing := 0
	call := func(method protoreflect.MethodDescriptor) {
		request, err := protoregistry.GlobalTypes.FindMessageByName(method.Input().FullName())
		if err != nil {
			t.Fatal(err)
		}
		response, err := protoregistry.GlobalTypes.FindMessageByName(method.Output().FullName())
		if err != nil {
			t.Fatal(err)
		}
		before, _ := lines(t, cfg)
		full := "/" + string(method.Parent().FullName()) + "/" + string(method.Name())
		callErr := r.conn.Invoke(testContext(t), full, request.New().Interface(), response.New().Interface(), grpc.WaitForReady(true))
		after, _ := lines(t, cfg)
		switch wrote := after[len(before):]; {
		case looks(method.Name()) && len(wrote) != 0:
			t.Errorf("%s only looks, and wrote %v", full, wrote)
		case !looks(method.Name()) && (len(wrote) != 1 || wrote[0].Method != full || (wrote[0].Code == "OK") != (callErr == nil)):
			t.Errorf("%s returned %v, and wrote %v; want one line, which says so", full, callErr, wrote)
		}
	}
	protoregistry.GlobalFiles.RangeFilesByPackage("leasehold.v1", func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			if service.Name() == "ControlService" || service.Name() == "PeerService" {
				continue // what workers call
			}
			for j := range service.Methods().Len() {
				method := service.Methods().Get(j)
				if !looks(method.Name()) {
					changing++
				}
				if !method.IsStreamingServer() && !method.IsStreamingClient() {
					call(method)
				} else if !looks(method.Name()) {
					t.Errorf("%s changes something on a stream, which has no line", method.FullName())
				}
			}
		}
		return true
	})
	if changing < 9 {
		t.Errorf("only %d methods change something", changing)
	}
}

func TestAuditLogFollowsADefinitionFromItsMakingToItsEnd(t *testing.T) {
	cfg := embedded(t)
	r := start(t, cfg)
	const canary = "CANARY-f3a9"
	g := counter("one")
	g.Upstreams[0].Credential = &leaseholdv1.Credential{Kind: &leaseholdv1.Credential_Bearer{Bearer: &leaseholdv1.Secret{Source: &leaseholdv1.Secret_Value{Value: canary}}}}
	created := r.create(t, g)
	update := func(change func(*leaseholdv1.Gateway), paths ...string) *leaseholdv1.Gateway {
		t.Helper()
		next := proto.CloneOf(created)
		change(next)
		resp, err := r.gateways.UpdateGateway(testContext(t), &leaseholdv1.UpdateGatewayRequest{Gateway: next, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
		if err != nil {
			t.Fatal(err)
		}
		created.Etag = ""
		return resp.Gateway
	}
	same := update(func(*leaseholdv1.Gateway) {}, "description")
	changed := update(func(g *leaseholdv1.Gateway) {
		g.Upstreams[0].Credential.GetBearer().Source = &leaseholdv1.Secret_Value{Value: canary + "2"}
	}, "upstreams")
	if _, err := r.gateways.CreateGateway(testContext(t), &leaseholdv1.CreateGatewayRequest{Gateway: g}); err == nil {
		t.Fatal("made it twice")
	}
	if _, err := r.gateways.DeleteGateway(testContext(t), &leaseholdv1.DeleteGatewayRequest{Name: "gateways/one"}); err != nil {
		t.Fatal(err)
	}
	got, text := lines(t, cfg)
	if strings.Contains(text, canary) {
		t.Error("the log has the value of a secret")
	}
	if len(got) != 5 {
		t.Fatalf("%d lines, want 5: %s", len(got), text)
	}
	first, second := got[0].After, got[2].After
	if first == second || first == "" || second == "" {
		t.Errorf("the digests before and after a secret was changed are %q and %q, want two", first, second)
	}
	const create, updated, remove = leaseholdv1.GatewayService_CreateGateway_FullMethodName, leaseholdv1.GatewayService_UpdateGateway_FullMethodName, leaseholdv1.GatewayService_DeleteGateway_FullMethodName
	for i, want := range []audit.Entry{
		{Method: create, After: first, Revision: created.Status.Revision, Code: "OK"},
		{Method: updated, Before: first, After: first, Revision: same.Status.Revision, Code: "OK"},
		{Method: updated, Before: first, After: second, Revision: changed.Status.Revision, Code: "OK"},
		{Method: create, Code: "ALREADY_EXISTS", Reason: "GATEWAY_EXISTS"},
		{Method: remove, Before: second, Revision: got[4].Revision, Code: "OK"},
	} {
		want.Time, want.Address, want.Resource = got[i].Time, got[i].Address, "gateways/one"
		if got[i] != want {
			t.Errorf("line %d is\n%+v, want\n%+v", i, got[i], want)
		}
	}
	if got[4].Revision <= changed.Status.Revision {
		t.Errorf("it was deleted at revision %d, want one after %d", got[4].Revision, changed.Status.Revision)
	}
}

func TestPlaneIsNotReadyWhileItsAuditLogCannotBeWritten(t *testing.T) {
	cfg := embedded(t)
	r := start(t, cfg)
	path := filepath.Join(cfg.DataDir, "audit.log")
	replace := func(do func() error) {
		t.Helper()
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		if do != nil {
			if err := do(); err != nil {
				t.Fatal(err)
			}
		}
	}
	health := func() error {
		select {
		case err := <-r.ready:
			return err
		case <-testContext(t).Done():
			t.Fatal("health says nothing")
			return nil
		}
	}
	replace(func() error { return os.Mkdir(path, 0o700) })
	if _, err := r.gateways.CreateGateway(testContext(t), &leaseholdv1.CreateGatewayRequest{Gateway: counter("one")}); err == nil {
		t.Error("a call whose line could not be written succeeds")
	}
	if err := health(); err == nil || !strings.Contains(err.Error(), "audit log") {
		t.Errorf("health says %v, want why", err)
	}
	w := r.register(t, workerA) // workers are not concerned
	if state := r.watch(t, workerA, w.Incarnation).next(); !state.Complete {
		t.Errorf("a worker is told %v", state)
	}
	replace(nil)
	if err := health(); err != nil {
		t.Errorf("health says %v, want that it is well", err)
	}
	r.create(t, counter("two"))
}

func TestPlaneDoesNotStartWithoutItsAuditLog(t *testing.T) {
	cfg := embedded(t)
	cfg.AuditLog = filepath.Join(cfg.DataDir, "none", "audit.log")
	if err := <-launch(t, cfg).ended; err == nil || !strings.Contains(err.Error(), "audit log") {
		t.Errorf("Run returned %v, want it to name the audit log", err)
	}
}
