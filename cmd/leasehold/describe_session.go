package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/leasehold/leasehold/cmd/internal/table"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func newDescribeSession(to *client) *cobra.Command {
	return &cobra.Command{
		Use:               "session NAME",
		Aliases:           []string{"sessions", "sess"},
		Short:             "Show all about one session, with its upstreams and last events",
		Example:           "  leasehold describe session 4f1c2d3e\n  leasehold describe session counter/4f1c2d3e",
		Args:              usage.Args(1, 1, "the name of a session"),
		ValidArgsFunction: completeSessions(to).only(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := to.findSession(cmd.Context(), args[0], "")
			if err != nil {
				return err
			}
			return describe(cmd, to, name, (&sessionList{}).resource().one, describeSession)
		},
	}
}

// fates say what becomes of a session of each class when its owner goes away.
var fates = map[leaseholdv1.Class]string{
	leaseholdv1.Class_CLASS_RESUMABLE:   "another worker continues the same upstream session",
	leaseholdv1.Class_CLASS_REBUILDABLE: "another worker opens a new upstream session",
	leaseholdv1.Class_CLASS_PINNED:      "the session ends with its worker",
}

func describeSession(p *page, session *leaseholdv1.Session) {
	p.line("Name", "%s", session.GetName())
	if end := session.GetEnd(); end != nil {
		p.line("State", "ended: %s", short(end.GetReason().String(), "END_REASON_"))
		p.time("Ended", end.GetTime())
	} else {
		p.line("State", "live")
	}
	class := short(session.GetClass().String(), classPrefix)
	if session.GetOutlivesPinned() {
		class += ": the session goes on, and another worker opens those of its upstream sessions anew that are pinned"
	} else if fate := fates[session.GetClass()]; fate != "" {
		class += ": " + fate
	}
	p.line("Class", "%s", class)
	p.line("Owner", "%s", session.GetOwner())
	p.line("Epoch", "%d", session.GetEpoch())
	p.line("Incarnation", "%d", session.GetIncarnation())
	p.line("Client", "%s", strings.TrimSpace(session.GetClient().GetName()+" "+session.GetClient().GetVersion()))
	p.line("Protocol", "%s", session.GetProtocolVersion())
	p.time("Created", session.GetCreateTime())
	p.time("Expires", session.GetExpireTime())
	describeActivity(p, session)
	describeUpstreams(p, session.GetUpstreams())
	describeEvents(p, session.GetEvents())
}

func describeActivity(p *page, session *leaseholdv1.Session) {
	if session.GetEnd() != nil {
		return
	}
	p.section("Activity")
	activity := session.GetActivity()
	if activity == nil {
		p.line("  Not known", "the owner did not say in time")
		return
	}
	p.time("  Last use", activity.GetLastUseTime())
	p.line("  Calls", "%d since this owner has the session, %d in flight", activity.GetCalls(), activity.GetCallsInFlight())
	p.line("  Open streams", "%d", activity.GetStreams())
}

func describeUpstreams(p *page, upstreams []*leaseholdv1.UpstreamSession) {
	p.section("Upstream sessions")
	rows := make([][]string, len(upstreams))
	for i, upstream := range upstreams {
		rows[i] = []string{upstream.GetUpstream(), short(upstream.GetClass().String(), classPrefix), upstream.GetProtocolVersion(), upstream.GetAddress()}
	}
	p.table([]table.Column{{Title: "UPSTREAM", Least: 12}, {Title: "CLASS", Least: 11}, {Title: "PROTOCOL", Least: 10}, {Title: "ADDRESS", Least: 15}}, rows)
}

func describeEvents(p *page, events []*leaseholdv1.SessionEvent) {
	p.section("Events")
	rows := make([][]string, len(events))
	for i, event := range events {
		rows[i] = []string{
			stamp(event.GetTime()), since(event.GetTime(), p.now), short(event.GetType().String(), "SESSION_EVENT_TYPE_"),
			strings.TrimPrefix(event.GetWorker(), "workers/"), fmt.Sprint(event.GetEpoch()),
		}
	}
	p.table([]table.Column{{Title: "TIME"}, {Title: "AGE"}, {Title: "EVENT", Least: 9}, {Title: "OWNER", Least: 8}, {Title: "EPOCH", Least: 5}}, rows)
}

// durationOr says how long a duration is, or what holds where there is none.
func durationOr(d *durationpb.Duration, none string) string {
	if d == nil {
		return none
	}
	return d.AsDuration().String()
}
