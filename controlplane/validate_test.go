package controlplane_test

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// secretive returns a gateway whose server is shown a secret.
func secretive(id string, secret *leaseholdv1.Secret) *leaseholdv1.Gateway {
	g := counter(id)
	g.Upstreams[0].Credential = &leaseholdv1.Credential{Kind: &leaseholdv1.Credential_Bearer{Bearer: secret}}
	return g
}

func inline(value string) *leaseholdv1.Secret {
	return &leaseholdv1.Secret{Source: &leaseholdv1.Secret_Value{Value: value}}
}

// stored returns all gateways, to be compared with what there is later.
func (r *replica) stored(t *testing.T) *leaseholdv1.ListGatewaysResponse {
	t.Helper()
	all, err := r.gateways.ListGateways(testContext(t), &leaseholdv1.ListGatewaysRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestAWriteThatOnlyValidatesSaysWhatWouldBeStoredAndStoresNothing(t *testing.T) {
	r := start(t, embedded(t))
	ctx := testContext(t)
	created := r.create(t, secretive("one", inline(canary)))
	before := r.stored(t)

	would, err := r.gateways.CreateGateway(ctx, &leaseholdv1.CreateGatewayRequest{GatewayId: "two", Gateway: secretive("two", inline("new")), ValidateOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	two := would.GetGateway()
	if two.GetName() != "gateways/two" || two.GetEtag() != "" || two.GetStatus() != nil || two.GetCreateTime() != nil {
		t.Errorf("would create %v, want it named, without etag, status and times", two)
	}
	if two.GetSession().GetIdleTimeout() == nil || !credentialOf(two).GetSet() || credentialOf(two).GetFingerprint() == "" {
		t.Errorf("would create %v, want defaults, and the secret set and not shown", two)
	}

	// The value that is stored is kept, a new one is another.
	change := secretive("one", credentialOf(created))
	change.Description = "new"
	for name, c := range map[string]struct {
		secret *leaseholdv1.Secret
		kept   bool
	}{"as it was read": {credentialOf(created), true}, "its value again": {inline(canary), true}, "another value": {inline("other"), false}} {
		change.Upstreams[0].Credential = secretive("one", c.secret).Upstreams[0].Credential
		would, err := r.gateways.UpdateGateway(ctx, &leaseholdv1.UpdateGatewayRequest{Gateway: change, ValidateOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		next := would.GetGateway()
		if next.GetDescription() != "new" || next.GetEtag() != created.GetEtag() || next.GetStatus() != nil || !proto.Equal(next.GetUpdateTime(), created.GetUpdateTime()) {
			t.Errorf("%s: would store %v, want the change, with etag and times as they are", name, next)
		}
		if got := credentialOf(next); got.GetValue() != "" || (got.GetFingerprint() == credentialOf(created).GetFingerprint()) != c.kept {
			t.Errorf("%s: the secret is %v, want it kept: %v", name, got, c.kept)
		}
	}
	same, err := r.gateways.UpdateGateway(ctx, &leaseholdv1.UpdateGatewayRequest{Gateway: created, ValidateOnly: true})
	if err != nil || !proto.Equal(same.GetGateway().GetSession(), created.GetSession()) {
		t.Errorf("a change that changes nothing: %v, %v", same, err)
	}
	if after := r.stored(t); !proto.Equal(before, after) {
		t.Errorf("stored is\n%v\nwant\n%v", after, before)
	}
}

func TestAWriteThatOnlyValidatesIsRefusedAsTheWriteIs(t *testing.T) {
	r := start(t, embedded(t))
	ctx := testContext(t)
	created := r.create(t, counter("one"))
	before := r.stored(t)
	create := func(id string, g *leaseholdv1.Gateway) *leaseholdv1.CreateGatewayRequest {
		return &leaseholdv1.CreateGatewayRequest{GatewayId: id, Gateway: g}
	}
	bad := counter("one")
	bad.Upstreams[0].Url = "not a url"
	stale := counter("one")
	stale.Etag = "old"
	unknown := secretive("one", &leaseholdv1.Secret{Set: true, Fingerprint: "never given"})
	for name, c := range map[string]struct {
		create *leaseholdv1.CreateGatewayRequest
		update *leaseholdv1.UpdateGatewayRequest
		code   codes.Code
		reason string
	}{
		"create nothing":           {create: create("two", nil), code: codes.InvalidArgument, reason: "INVALID_ARGUMENT"},
		"create what is there":     {create: create("", counter("one")), code: codes.AlreadyExists, reason: "GATEWAY_EXISTS"},
		"create under two names":   {create: create("two", counter("one")), code: codes.InvalidArgument, reason: "INVALID_ARGUMENT"},
		"create with a bad field":  {create: create("", bad), code: codes.InvalidArgument, reason: "INVALID_ARGUMENT"},
		"update what is not there": {update: &leaseholdv1.UpdateGatewayRequest{Gateway: counter("two")}, code: codes.NotFound, reason: "GATEWAY_NOT_FOUND"},
		"update with an old etag":  {update: &leaseholdv1.UpdateGatewayRequest{Gateway: stale}, code: codes.Aborted, reason: "ETAG_MISMATCH"},
		"update with a bad field":  {update: &leaseholdv1.UpdateGatewayRequest{Gateway: bad}, code: codes.InvalidArgument, reason: "INVALID_ARGUMENT"},
		"update with a bad mask": {update: &leaseholdv1.UpdateGatewayRequest{Gateway: created, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"etag"}}},
			code: codes.InvalidArgument, reason: "INVALID_ARGUMENT"},
		"update to a secret that is not stored": {update: &leaseholdv1.UpdateGatewayRequest{Gateway: unknown}, code: codes.InvalidArgument, reason: "INVALID_ARGUMENT"},
	} {
		t.Run(name, func(t *testing.T) {
			call := func(validateOnly bool) (err error) {
				if c.create != nil {
					c.create.ValidateOnly = validateOnly
					_, err = r.gateways.CreateGateway(ctx, c.create)
					return err
				}
				c.update.ValidateOnly = validateOnly
				_, err = r.gateways.UpdateGateway(ctx, c.update)
				return err
			}
			validated, written := call(true), call(false)
			wantStatus(t, validated, c.code, c.reason)
			if validated == nil || written == nil || validated.Error() != written.Error() {
				t.Errorf("got %v, want %v as of the write", validated, written)
			}
		})
	}
	if after := r.stored(t); !proto.Equal(before, after) {
		t.Errorf("stored is\n%v\nwant\n%v", after, before)
	}
}
