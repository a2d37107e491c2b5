package main

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/cmd/internal/operator"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// What becomes of gateways that are applied.
const (
	created   = "created"
	updated   = "updated"
	unchanged = "unchanged"
	pruned    = "pruned"
)

// change is what writing a gateway did, or would do.
type change struct {
	verb   string
	before *leaseholdv1.Gateway // nil if it was created
	after  *leaseholdv1.Gateway
}

// writer makes gateways be as they are given, or only asks the control plane what
// that would do.
type writer struct {
	api          leaseholdv1.GatewayServiceClient
	validateOnly bool
}

// newValidator returns a writer that only asks. A control plane of before there was
// validate_only would take no notice of it, and write.
func newValidator(ctx context.Context, conn *grpc.ClientConn) (writer, error) {
	known, err := operator.Knows(ctx, conn, "leasehold.v1.UpdateGatewayRequest.validate_only")
	if err != nil {
		return writer{}, operator.Explain(err)
	}
	if !known {
		return writer{}, errors.New("the control plane cannot check a gateway without writing it; is it of another version?")
	}
	return writer{api: leaseholdv1.NewGatewayServiceClient(conn), validateOnly: true}, nil
}

// write makes the gateway be as given, and says what that took.
func (w writer) write(ctx context.Context, want *leaseholdv1.Gateway) (change, error) {
	stored, err := w.get(ctx, want)
	if operator.Code(err) == codes.NotFound {
		if want.GetEtag() != "" {
			return change{}, errors.New("etag: is set, but there is no such gateway; leave it out to create one")
		}
		response, err := w.api.CreateGateway(ctx, &leaseholdv1.CreateGatewayRequest{Gateway: want, ValidateOnly: w.validateOnly})
		if operator.Code(err) != codes.AlreadyExists {
			return change{verb: created, after: response.GetGateway()}, err
		}
		// Somebody else created it meanwhile.
		if stored, err = w.get(ctx, want); err != nil {
			return change{}, err
		}
	} else if err != nil {
		return change{}, err
	}
	if sameDefinition(stored, want) {
		return change{verb: unchanged, before: stored, after: stored}, nil
	}
	response, err := w.api.UpdateGateway(ctx, &leaseholdv1.UpdateGatewayRequest{Gateway: want, ValidateOnly: w.validateOnly})
	if err != nil {
		return change{}, err
	}
	done := change{verb: updated, before: stored, after: response.GetGateway()}
	if sameDefinition(stored, done.after) {
		done.verb = unchanged // the server's defaults made them equal
	}
	return done, nil
}

func (w writer) get(ctx context.Context, want *leaseholdv1.Gateway) (*leaseholdv1.Gateway, error) {
	response, err := w.api.GetGateway(ctx, &leaseholdv1.GetGatewayRequest{Name: want.GetName()})
	return response.GetGateway(), err
}

// sameDefinition reports whether two gateways say the same in all that an
// operator may set.
func sameDefinition(a, b *leaseholdv1.Gateway) bool {
	return proto.Equal(definition(a), definition(b))
}

func definition(gateway *leaseholdv1.Gateway) *leaseholdv1.Gateway {
	only := proto.CloneOf(gateway)
	only.Etag, only.CreateTime, only.UpdateTime, only.Status = "", nil, nil, nil
	for _, upstream := range only.GetUpstreams() {
		if upstream.GetTransport() == leaseholdv1.Transport_TRANSPORT_UNSPECIFIED {
			upstream.Transport = leaseholdv1.Transport_TRANSPORT_STREAMABLE_HTTP
		}
	}
	return only
}
