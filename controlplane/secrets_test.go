package controlplane_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const canary = "canary-4c1f"

// credentialOf returns what a gateway's server is shown.
func credentialOf(g *leaseholdv1.Gateway) *leaseholdv1.Secret {
	return g.GetUpstreams()[0].GetCredential().GetBearer()
}

func TestOnlyWorkersAreToldTheValueOfASecret(t *testing.T) {
	r := start(t, embedded(t))
	ctx := testContext(t)
	g := counter("one")
	g.Upstreams[0].Credential = &leaseholdv1.Credential{Kind: &leaseholdv1.Credential_Bearer{
		Bearer: &leaseholdv1.Secret{Source: &leaseholdv1.Secret_Value{Value: canary}}}}
	created := r.create(t, g)

	answers := map[string]proto.Message{"create": created}
	var err error
	if answers["get"], err = r.gateways.GetGateway(ctx, &leaseholdv1.GetGatewayRequest{Name: "gateways/one"}); err != nil {
		t.Fatal(err)
	}
	if answers["list"], err = r.gateways.ListGateways(ctx, &leaseholdv1.ListGatewaysRequest{}); err != nil {
		t.Fatal(err)
	}
	// What was read, written back with another description, keeps the value.
	created.Description = "new"
	updated, err := r.gateways.UpdateGateway(ctx, &leaseholdv1.UpdateGatewayRequest{Gateway: created})
	if err != nil {
		t.Fatal(err)
	}
	answers["update"] = updated
	stream, err := r.gateways.WatchGateways(ctx, &leaseholdv1.WatchGatewaysRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if answers["watch"], err = stream.Recv(); err != nil {
		t.Fatal(err)
	}
	for what, answer := range answers {
		wire, err := proto.Marshal(answer)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(wire), canary) || !strings.Contains(string(wire), credentialOf(created).GetFingerprint()) {
			t.Errorf("%s: got %v, want the secret's fingerprint and not its value", what, answer)
		}
	}
	if got := credentialOf(updated.Gateway); !got.GetSet() || got.GetFingerprint() == "" || got.GetFingerprint() != credentialOf(created).GetFingerprint() {
		t.Errorf("the kept secret: got %v, want it set, with the fingerprint that it had", got)
	}

	registered := r.register(t, workerA)
	w := r.watch(t, workerA, registered.Incarnation)
	resp := w.until(func(resp *leaseholdv1.WatchResponse) bool { return strings.Contains(resp.String(), "gateways/one") })
	wire, _ := proto.Marshal(resp)
	if !strings.Contains(string(wire), canary) {
		t.Errorf("the worker got %v, want the value", resp)
	}
}
