package etcd

import (
	"context"
	"errors"
	"path"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// counts are the store's metrics. Requests are counted in the connection,
// attempts that the client repeats by itself included, so that no request can be
// forgotten; the label is what the store was doing.
type counts struct {
	requests *prometheus.CounterVec
	refused  prometheus.Counter
	repeated prometheus.Counter
	holding  prometheus.Gauge
	rejected prometheus.Gauge
}

func newCounts(reg prometheus.Registerer) (*counts, error) {
	c := &counts{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "leasehold_etcd_requests_total",
			Help: "Requests sent to etcd, by operation.",
		}, []string{"op"}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "leasehold_etcd_writes_refused_total",
			Help: "Claims, saves and ends that were refused because too many waited.",
		}),
		repeated: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "leasehold_etcd_repeats_total",
			Help: "Requests that were sent to another etcd member because one did not answer.",
		}),
		holding: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "leasehold_controlplane_holding",
			Help: "Whether reclaims are held, as after a start and after a loss of etcd.",
		}),
		rejected: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "leasehold_gateways_rejected",
			Help: "Gateways whose newest definition at least one living worker cannot apply.",
		}),
	}
	if reg == nil {
		return c, nil
	}
	var err error
	if c.requests, err = registered(reg, c.requests); err != nil {
		return nil, err
	}
	if c.refused, err = registered(reg, c.refused); err != nil {
		return nil, err
	}
	if c.repeated, err = registered(reg, c.repeated); err != nil {
		return nil, err
	}
	if c.holding, err = registered(reg, c.holding); err != nil {
		return nil, err
	}
	c.rejected, err = registered(reg, c.rejected)
	return c, err
}

// registered registers c and returns it, or the one that another replica in this
// process registered before: the two count together.
func registered[C prometheus.Collector](reg prometheus.Registerer, c C) (C, error) {
	err := reg.Register(c)
	var dup prometheus.AlreadyRegisteredError
	if errors.As(err, &dup) {
		if there, ok := dup.ExistingCollector.(C); ok {
			return there, nil
		}
	}
	return c, err
}

func (c *counts) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	c.requests.WithLabelValues(op(ctx, method)).Inc()
	return invoke(ctx, method, req, reply, cc, append(opts, failFast)...)
}

func (c *counts) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	c.requests.WithLabelValues(op(ctx, method)).Inc()
	return streamer(ctx, desc, cc, method, opts...)
}

// failFast makes a call fail at once while no member can be reached, where the
// client would have it wait until its deadline: whoever called can ask another
// replica meanwhile.
var failFast = grpc.WaitForReady(false)

type opKey struct{}

// withOp names what the requests made with the context are for.
func withOp(ctx context.Context, op string) context.Context {
	return context.WithValue(ctx, opKey{}, op)
}

func op(ctx context.Context, method string) string {
	if name, ok := ctx.Value(opKey{}).(string); ok {
		return name
	}
	return path.Base(method)
}

func grpcUnavailable(err error) bool { return status.Code(err) == codes.Unavailable }
