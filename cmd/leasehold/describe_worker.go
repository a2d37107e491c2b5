package main

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func newDescribeWorker(to *client) *cobra.Command {
	return &cobra.Command{
		Use:     "worker NAME",
		Aliases: []string{"workers", "wk"},
		Short:   "Show all about one worker; of a dead one, who may take its sessions over",
		Long: "Shows all about one worker: its sessions, where it listens, and which workers it\n" +
			"asks before it serves on without the control plane. Of a dead one also who may\n" +
			"take its sessions over, what the others wait for, and what would help.",
		Example:           "  leasehold describe worker 4f1c2d3e",
		Args:              usage.Args(1, 1, "the name of a worker"),
		ValidArgsFunction: completeWorkers(to).only(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := to.findWorker(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return describe(cmd, to, name, (&workerList{}).resource().one, describeWorker)
		},
	}
}

// standings say what each state of a worker means.
var standings = map[leaseholdv1.WorkerState]string{
	leaseholdv1.WorkerState_WORKER_STATE_DRAINING: "it hands its sessions over and takes no more",
	leaseholdv1.WorkerState_WORKER_STATE_DEAD:     "its lease is gone; it may still run",
	leaseholdv1.WorkerState_WORKER_STATE_LEFT:     "it certainly does not act any more",
}

func describeWorker(p *page, worker *leaseholdv1.Worker) {
	p.line("Name", "%s", worker.GetName())
	state := short(worker.GetState().String(), statePrefix)
	if standing := standings[worker.GetState()]; standing != "" {
		state += ": " + standing
	}
	p.line("State", "%s", state)
	p.line("Incarnation", "%d", worker.GetIncarnation())
	p.line("Version", "%s", worker.GetVersion())
	p.line("Zone", "%s", worker.GetZone())
	p.line("Config", "revision %d", worker.GetAppliedRevision())
	p.time("Registered", worker.GetRegisterTime())
	describeLoad(p, worker)
	p.section("Addresses")
	p.line("  Clients", "%s", worker.GetListenAddress())
	p.line("  Other workers", "%s", worker.GetPeerAddress())
	p.line("  Admin", "%s", worker.GetAdminAddress())
	if worker.GetState() != leaseholdv1.WorkerState_WORKER_STATE_LEFT {
		p.section("Workers that it knows")
		p.sentence("It asks them before it serves on without the control plane; when it is dead, they may take its sessions over.")
		p.workers("  Known", worker.GetPeers(), "none: it does not serve on without the control plane")
	}
	if takeover := worker.GetTakeover(); takeover != nil {
		describeTakeover(p, worker.GetName(), takeover)
	}
}

func describeLoad(p *page, worker *leaseholdv1.Worker) {
	p.section("Sessions")
	if !alive(worker) {
		p.line("  Recorded", "%d with it as their owner", worker.GetSessions())
		return
	}
	p.line("  Owned", "%d of at most %d", worker.GetSessions(), worker.GetCapacity())
	p.line("  Pinned", "%d of those: they end with it", worker.GetPinnedSessions())
	p.line("  Not recorded yet", "%d more: lost if it dies before they are", worker.GetUndurableSessions())
}

// alive reports whether a worker holds its lease.
func alive(worker *leaseholdv1.Worker) bool {
	switch worker.GetState() {
	case leaseholdv1.WorkerState_WORKER_STATE_DEAD, leaseholdv1.WorkerState_WORKER_STATE_LEFT:
		return false
	}
	return true
}

// takeovers say who may take the sessions of a dead worker over, and why.
var takeovers = map[leaseholdv1.TakeoverRule]string{
	leaseholdv1.TakeoverRule_TAKEOVER_RULE_LISTED: "The workers that it knew may take its sessions over, because it asks them before it serves on " +
		"without the control plane.",
	leaseholdv1.TakeoverRule_TAKEOVER_RULE_SUPERSEDED: "Every worker may take its sessions over, because it left, was forgotten, or registered anew: " +
		"it never acts for them again.",
	leaseholdv1.TakeoverRule_TAKEOVER_RULE_ALONE: "Every worker may take its sessions over, because it knew no other worker, and so does not serve on " +
		"without the control plane.",
	leaseholdv1.TakeoverRule_TAKEOVER_RULE_PEER_SUPERSEDED: "Every worker may take its sessions over, because one of those that it knew left, was forgotten, or " +
		"registered anew, and so cannot answer it any more, without which it does not serve on.",
	leaseholdv1.TakeoverRule_TAKEOVER_RULE_EXPIRED: "Every worker may take its sessions over, because it has been dead for longer than it could serve on " +
		"without the control plane.",
	leaseholdv1.TakeoverRule_TAKEOVER_RULE_WAITING: "No worker may take its sessions over yet, because none of those that it knew is alive, and it could " +
		"still serve on with them: its sessions wait until it or one of them is back, or until it has been dead for long enough.",
	leaseholdv1.TakeoverRule_TAKEOVER_RULE_HOLDING: "No worker may take its sessions over yet by the replica of the control plane that was asked, because that " +
		"has just started or got etcd back, and gives workers that live the time to come back first.",
}

func describeTakeover(p *page, name string, takeover *leaseholdv1.Takeover) {
	p.section("Takeover")
	rule := takeover.GetRule()
	p.sentence(cmp.Or(takeovers[rule], "The control plane gives no reason that this command knows; is it of another version?"))
	p.workers("  May take over", takeover.GetTakers(), "none now")
	if latest := takeover.GetLatestTime(); latest != nil {
		p.time("  All, at latest", latest)
	}
	id := strings.TrimPrefix(name, "workers/")
	switch {
	case takeovers[rule] == "":
	case rule == leaseholdv1.TakeoverRule_TAKEOVER_RULE_WAITING:
		p.command("If its process is gone for good, say so, and every worker may at once:", "leasehold forget worker "+id)
	case rule == leaseholdv1.TakeoverRule_TAKEOVER_RULE_HOLDING:
		p.command("Ask again in some seconds, or another replica:", "leasehold describe worker "+id+" --control ADDRESS")
	default:
		p.command("Each session goes on there with its next request; pinned ones end. Those left:", "leasehold get sessions --owner "+id)
	}
}

// command says which command helps, and when.
func (p *page) command(when, command string) {
	fmt.Fprintln(&p.text)
	p.sentence(when)
	fmt.Fprintf(&p.text, "    %s\n", command)
}

// mostShown is how many workers are listed at most.
const mostShown = 12

// workers lists names of workers, each on a line of its own, or says why there are none.
func (p *page) workers(label string, names []string, none string) {
	if len(names) == 0 {
		p.line(label, "%s", none)
		return
	}
	for i, name := range names {
		if i == mostShown {
			p.line("", "and %d more", len(names)-i)
			return
		}
		p.line(label, "%s", strings.TrimPrefix(name, "workers/"))
		label = ""
	}
}
