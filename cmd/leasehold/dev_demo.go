package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/leasehold/leasehold/cmd/internal/demo"
	"github.com/leasehold/leasehold/cmd/internal/operator"
	"github.com/leasehold/leasehold/cmd/internal/trust"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	demoGateway  = "gateways/demo"
	demoUpstream = "demo"
	// demoLimit is how long the demo may take to reach every worker.
	demoLimit = 10 * time.Second
)

// registerDemo makes gateways/demo lead to the demo upstream's port, which is
// another one at each start, and returns when every worker has it.
func (w *world) registerDemo(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, demoLimit, errors.New("gateways/demo did not reach every worker in time"))
	defer cancel()
	conn, err := operator.Dial(ctx, []string{bound(w.listeners.control)}, w.proof.operator.Client(trust.ControlPlane))
	if err != nil {
		return err
	}
	defer conn.Close()
	api := leaseholdv1.NewGatewayServiceClient(conn)
	if err := w.putDemo(ctx, api); err != nil {
		return fmt.Errorf("register the demo: %w", operator.Explain(err))
	}
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for {
		response, err := api.GetGateway(ctx, &leaseholdv1.GetGatewayRequest{Name: demoGateway})
		if err == nil && int(response.GetGateway().GetStatus().GetWorkersApplied()) >= len(w.workers) {
			return nil
		}
		select {
		case <-poll.C:
		case err := <-w.failed:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// putDemo creates the gateway, or changes the URL of its upstream and nothing
// else. A gateway of that name without the demo's upstream is somebody's own,
// and is left alone.
func (w *world) putDemo(ctx context.Context, api leaseholdv1.GatewayServiceClient) error {
	url := w.demoURL()
	stored, err := api.GetGateway(ctx, &leaseholdv1.GetGatewayRequest{Name: demoGateway})
	if operator.Code(err) == codes.NotFound {
		_, err = api.CreateGateway(ctx, &leaseholdv1.CreateGatewayRequest{Gateway: &leaseholdv1.Gateway{
			Name:        demoGateway,
			Description: "The demo upstream of `leasehold dev`.",
			Upstreams:   []*leaseholdv1.Upstream{{Name: demoUpstream, Url: url, Transport: leaseholdv1.Transport_TRANSPORT_STREAMABLE_HTTP}},
		}})
		return err
	}
	if err != nil {
		return err
	}
	gateway := proto.CloneOf(stored.GetGateway())
	for _, upstream := range gateway.GetUpstreams() {
		if upstream.GetName() != demoUpstream {
			continue
		}
		upstream.Url = url
		_, err = api.UpdateGateway(ctx, &leaseholdv1.UpdateGatewayRequest{
			Gateway:    gateway,
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"upstreams"}},
		})
		return err
	}
	w.logger.Warn("gateway left as it is: it has no upstream of the demo's name", "gateway", demoGateway, "upstream", demoUpstream)
	return nil
}

func (w *world) demoURL() string { return "http://" + bound(w.listeners.demo) + demo.Path }
