package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/leasehold/leasehold/cmd/internal/manifest"
	"github.com/leasehold/leasehold/cmd/internal/operator"
	"github.com/leasehold/leasehold/cmd/internal/table"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// inspectTimeout is longer than a worker takes at most.
const inspectTimeout = 45 * time.Second

func newInspect() *cobra.Command {
	to := client{timeout: inspectTimeout}
	cmd := &cobra.Command{
		Use:     "inspect",
		Short:   "Have a worker connect to a gateway's upstream and say what it finds",
		Example: "  leasehold inspect gateway counter",
		Args:    cobra.ArbitraryArgs,
		RunE:    usage.Group,
	}
	to.flags(cmd)
	output, worker := usage.NewChoice("table", "table", "yaml", "json"), ""
	gateway := &cobra.Command{
		Use:     "gateway NAME",
		Aliases: []string{"gateways", "gw"},
		Short:   "Show what a gateway's upstream has, or which step of connecting to it fails",
		Long: "Has a living worker connect to the upstream of a gateway as it does for sessions,\n" +
			"with a session of its own that it ends, and shows what the server says of itself\n" +
			"and lists, what of it would cause trouble, and each step with its time. It fails\n" +
			"when a step failed.",
		Example:           "  leasehold inspect gateway counter\n  leasehold inspect gateway counter --worker 4f1c2d3e -o json",
		Args:              usage.Args(1, 1, "the name of a gateway"),
		ValidArgsFunction: completeGateways(&to).only(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := gatewayName(args[0])
			if err != nil {
				return err
			}
			request := &leaseholdv1.InspectGatewayRequest{Name: name}
			if worker != "" {
				if request.Worker, err = to.findWorker(cmd.Context(), worker); err != nil {
					return err
				}
			}
			ctx, conn, closeAll, err := to.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer closeAll()
			found, err := leaseholdv1.NewGatewayServiceClient(conn).InspectGateway(ctx, request)
			if err != nil {
				return fmt.Errorf("%s: %w", name, operator.Explain(err))
			}
			if err := writeInspection(cmd.OutOrStdout(), output.String(), name, found); err != nil {
				return err
			}
			return inspectionFailure(name, found)
		},
	}
	gateway.Flags().VarP(output, "output", "o", "how to print it")
	gateway.Flags().StringVar(&worker, "worker", "", "the worker that shall look; without it the control plane chooses one")
	// They cannot fail: the flags were just made.
	_ = gateway.RegisterFlagCompletionFunc("output", output.Complete)
	_ = gateway.RegisterFlagCompletionFunc("worker", completeWorkers(&to, leaseholdv1.WorkerState_WORKER_STATE_SERVING).flag)
	cmd.AddCommand(gateway)
	return cmd
}

func writeInspection(w io.Writer, output, name string, found *leaseholdv1.InspectGatewayResponse) error {
	switch output {
	case "json":
		return manifest.WriteJSON(w, found)
	case "yaml":
		return manifest.WriteYAML(w, found)
	}
	p := &page{}
	p.line("Gateway", "%s", name)
	p.line("Seen from", "%s", found.GetWorker())
	p.line("By revision", "%d", found.GetRevision())
	if newest := found.GetNewestRevision(); newest != found.GetRevision() {
		p.line("Newest revision", "%d: the worker does not serve by it", newest)
	}
	for _, upstream := range found.GetUpstreams() {
		p.inspection(upstream)
	}
	_, err := io.WriteString(w, p.text.String())
	return err
}

// inspectionFailure returns the first step that failed, as an error.
func inspectionFailure(name string, found *leaseholdv1.InspectGatewayResponse) error {
	for _, upstream := range found.GetUpstreams() {
		for _, step := range upstream.GetSteps() {
			if step.GetError() != "" {
				return fmt.Errorf("%s: upstream %s: %s: %s", name, upstream.GetUpstream(), stepName(step), table.Printable(step.GetError()))
			}
		}
	}
	return nil
}

func stepName(step *leaseholdv1.InspectionStep) string {
	return short(step.GetKind().String(), "INSPECTION_STEP_KIND_")
}

func (p *page) inspection(u *leaseholdv1.UpstreamInspection) {
	p.section("Upstream " + u.GetUpstream())
	if u.GetProtocolVersion() != "" {
		p.line("  Server", "%s", strings.Join(strings.Fields(u.GetServerName()+" "+u.GetServerVersion()), " "))
		p.line("  Title", "%s", u.GetServerTitle())
		p.line("  Protocol", "%s", u.GetProtocolVersion())
		p.line("  Session id", "%s", map[bool]string{true: "given by the server", false: "none: there is nothing to lose"}[u.GetSessionId()])
		p.line("  Instructions", "%d bytes", u.GetInstructionsBytes())
		p.line("  Capabilities", "%s", strings.Join(u.GetCapabilities(), ", "))
	}
	p.line("  Era", "%s", cmp.Or(eras[u.GetEra()], "not known"))
	if versions := u.GetSupportedVersions(); len(versions) > 0 {
		p.line("  Versions", "%s", strings.Join(versions, ", "))
	}
	p.inspectionSteps(u.GetSteps())
	p.inspected("Tools", u.GetTools())
	p.inspected("Resources", u.GetResources())
	p.inspected("Resource templates", u.GetResourceTemplates())
	p.inspected("Prompts", u.GetPrompts())
	if len(u.GetFindings()) > 0 {
		p.section("What may cause trouble")
		for _, finding := range u.GetFindings() {
			p.sentence(strings.TrimPrefix(cmp.Or(finding.GetSubject(), "the server")+": "+finding.GetReason(), ": "))
		}
	}
}

var eras = map[leaseholdv1.InspectedEra]string{
	leaseholdv1.InspectedEra_INSPECTED_ERA_STATEFUL:  "stateful: it has sessions",
	leaseholdv1.InspectedEra_INSPECTED_ERA_STATELESS: "stateless: it has no sessions",
	leaseholdv1.InspectedEra_INSPECTED_ERA_BOTH:      "both: with sessions, and without",
}

func (p *page) inspectionSteps(steps []*leaseholdv1.InspectionStep) {
	p.section("Steps")
	rows := make([][]string, len(steps))
	for i, step := range steps {
		result := "ok"
		if step.GetError() != "" {
			result = "failed"
		}
		rows[i] = []string{stepName(step), step.GetDuration().AsDuration().Round(10 * time.Microsecond).String(), result}
	}
	p.table([]table.Column{{Title: "STEP"}, {Title: "TOOK"}, {Title: "RESULT"}}, rows)
	var said []string
	for _, step := range steps {
		if text := cmp.Or(step.GetError(), step.GetDetail()); text != "" {
			said = append(said, stepName(step)+": "+text)
		}
	}
	p.sentences(said)
}

// sentences are said below a table.
func (p *page) sentences(texts []string) {
	if len(texts) > 0 {
		fmt.Fprintln(&p.text)
	}
	for _, text := range texts {
		p.sentence(text)
	}
}

// inspected prints a list; one that the server does not have is left out.
func (p *page) inspected(title string, list *leaseholdv1.InspectedList) {
	if list == nil {
		return
	}
	p.section(fmt.Sprintf("%s (%d)", title, len(list.GetItems())))
	if len(list.GetItems()) > 0 {
		columns := []table.Column{{Title: "NAME", Least: 24}, {Title: "DESCRIPTION", Least: 12}}
		if list.GetItems()[0].GetUri() != "" {
			columns = slices.Insert(columns, 1, table.Column{Title: "URI", Least: 24})
		}
		rows := make([][]string, len(list.GetItems()))
		for i, item := range list.GetItems() {
			about := strings.Join(strings.Fields(cmp.Or(item.GetDescription(), item.GetTitle())), " ")
			rows[i] = []string{cmp.Or(item.GetName(), "-"), cmp.Or(about, "-")}
			if len(columns) > len(rows[i]) {
				rows[i] = slices.Insert(rows[i], 1, cmp.Or(item.GetUri(), "-"))
			}
		}
		p.table(columns, rows)
	}
	if list.GetCut() != "" {
		p.sentence("There may be more: " + list.GetCut() + ".")
	}
}
