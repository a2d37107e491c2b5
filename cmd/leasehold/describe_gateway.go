package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/leasehold/leasehold/cmd/internal/table"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func newDescribeGateway(to *client) *cobra.Command {
	return &cobra.Command{
		Use:               "gateway NAME",
		Aliases:           []string{"gateways", "gw"},
		Short:             "Show all about one gateway",
		Example:           "  leasehold describe gateway counter",
		Args:              usage.Args(1, 1, "the name of a gateway"),
		ValidArgsFunction: completeGateways(to).only(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := gatewayName(args[0])
			if err != nil {
				return err
			}
			return describe(cmd, to, name, gateways("").one, describeGateway)
		},
	}
}

func describeGateway(p *page, gateway *leaseholdv1.Gateway) {
	status := gateway.GetStatus()
	p.line("Name", "%s", gateway.GetName())
	p.line("Description", "%s", gateway.GetDescription())
	p.line("Clients use", "/%s/mcp at any worker", gateway.GetName())
	p.line("Sessions", "%d", status.GetSessions())
	p.line("Workers", "%d of %d have applied revision %d", status.GetWorkersApplied(), status.GetWorkersTotal(), status.GetRevision())
	if why := status.GetUnusable(); why != "" {
		p.line("Unusable", "%s", why)
	}
	p.time("Created", gateway.GetCreateTime())
	p.time("Updated", gateway.GetUpdateTime())
	p.line("Etag", "%s", gateway.GetEtag())
	if labels := gateway.GetLabels(); len(labels) > 0 {
		p.section("Labels")
		for _, key := range slices.Sorted(maps.Keys(labels)) {
			p.line("  "+key, "%s", labels[key])
		}
	}
	describeWorkers(p, status)
	p.section("Session policy")
	p.line("  Idle timeout", "%s", durationOr(gateway.GetSession().GetIdleTimeout(), "30m (default)"))
	p.line("  Lifetime", "%s", durationOr(gateway.GetSession().GetAbsoluteLifetime(), "24h (default)"))
	p.line("  Upstream lost it", "%s", short(gateway.GetSession().GetOnUpstreamLost().String(), "ON_UPSTREAM_LOST_"))
	for _, upstream := range gateway.GetUpstreams() {
		p.section("Upstream " + upstream.GetName())
		if upstream.GetTransport() == leaseholdv1.Transport_TRANSPORT_STDIO {
			p.line("  Command", "%s", program(upstream))
		} else {
			p.line("  URL", "%s", upstream.GetUrl())
		}
		p.line("  Transport", "%s", transport(upstream))
		p.line("  Response timeout", "%s", durationOr(upstream.GetResponseTimeout(), "5m (default)"))
		p.upstreamWorkers(upstream.GetName(), status)
	}
	describeConflicts(p, status)
}

// describeWorkers says what each worker made of a definition.
func describeWorkers(p *page, status *leaseholdv1.GatewayStatus) {
	if len(status.GetWorkers()) == 0 {
		return
	}
	p.section("Workers")
	rows := make([][]string, len(status.GetWorkers()))
	for i, worker := range status.GetWorkers() {
		revision := "-"
		if worker.GetRevision() > 0 {
			revision = fmt.Sprint(worker.GetRevision())
		}
		rows[i] = []string{
			strings.TrimPrefix(worker.GetWorker(), "workers/"), applyWord(worker.GetState()), revision,
			cmp.Or(worker.GetError().GetField(), "-"), cmp.Or(worker.GetError().GetReason(), "-"),
		}
	}
	p.table([]table.Column{{Title: "WORKER"}, {Title: "STATE"}, {Title: "REVISION"}, {Title: "FIELD", Least: 12}, {Title: "REASON", Least: 6}}, rows)
	for _, text := range rejections(status) {
		fmt.Fprintln(&p.text)
		p.sentence("It is " + text)
	}
}

// program is the command line that an upstream's sessions run.
func program(upstream *leaseholdv1.Upstream) string {
	return strings.Join(append([]string{upstream.GetCommand()}, upstream.GetArgs()...), " ")
}

func transport(upstream *leaseholdv1.Upstream) string {
	if upstream.GetTransport() == leaseholdv1.Transport_TRANSPORT_UNSPECIFIED {
		return short(leaseholdv1.Transport_TRANSPORT_STREAMABLE_HTTP.String(), "TRANSPORT_")
	}
	return short(upstream.GetTransport().String(), "TRANSPORT_")
}
