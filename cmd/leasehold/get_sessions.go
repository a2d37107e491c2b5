package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/cmd/internal/operator"
	"github.com/leasehold/leasehold/cmd/internal/table"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// selection is the flags that say which sessions are meant.
type selection struct {
	gateway, owner, filter string
	class                  *usage.Choice
	ended                  bool
}

func newGetSessions(g *get) *cobra.Command {
	s := &selection{class: usage.NewChoice("", classes()...)}
	cmd := &cobra.Command{
		Use:     "sessions [NAME]",
		Aliases: []string{"session", "sess"},
		Short:   "Show client sessions and who owns them",
		Long: "Shows client sessions: which worker owns each of them, how many owners it has\n" +
			"had (epoch), what becomes of it when its owner goes away (class), and what its\n" +
			"owner says of its use; - where the owner did not answer. Sessions are named by a\n" +
			"digest of their id, which no client could use. The table has the first digits of\n" +
			"it, which every command accepts in place of the name; -o name has the whole.",
		Example:           "  leasehold get sessions --gateway counter --class pinned\n  leasehold get session 4f1c2d3e -o json\n  leasehold get sessions --watch",
		Args:              usage.Args(0, 1, "the name of a session"),
		ValidArgsFunction: completeSessions(&g.client).only(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := s.list(cmd.Context(), g)
			if err != nil {
				return err
			}
			name := ""
			if len(args) == 1 {
				if name, err = g.findSession(cmd.Context(), args[0], s.gateway); err != nil {
					return err
				}
			}
			return list.run(cmd.Context(), g, name, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&s.gateway, "gateway", "", "only the sessions of this gateway")
	flags.StringVar(&s.owner, "owner", "", "only the sessions of this worker")
	flags.Var(s.class, "class", "only the sessions of this class")
	flags.StringVar(&s.filter, "filter", "", "only those for which this holds: `owner = workers/W`, `class = CLASS_PINNED`, `gateway = gateways/G`, several joined with AND")
	flags.BoolVar(&s.ended, "ended", false, "also sessions that have ended and are still remembered")
	_ = cmd.RegisterFlagCompletionFunc("gateway", completeGateways(&g.client).flag)
	_ = cmd.RegisterFlagCompletionFunc("owner", completeWorkers(&g.client).flag)
	_ = cmd.RegisterFlagCompletionFunc("class", s.class.Complete)
	_ = cmd.RegisterFlagCompletionFunc("filter", cobra.NoFileCompletions)
	return cmd
}

// classes are the classes of sessions as people write them.
func classes() []string {
	var words []string
	values := leaseholdv1.Class(0).Descriptor().Values()
	for i := range values.Len() {
		if value := values.Get(i); value.Number() != 0 {
			words = append(words, short(string(value.Name()), classPrefix))
		}
	}
	return words
}

const classPrefix = "CLASS_"

// list returns how the sessions that the flags mean are fetched.
func (s *selection) list(ctx context.Context, g *get) (*resource[*leaseholdv1.Session, *leaseholdv1.ListSessionsResponse], error) {
	if g.watch && s.ended {
		return nil, usage.Errorf("--watch and --ended exclude each other: a session that ends is shown, and then over")
	}
	list := &sessionList{ended: s.ended, watched: g.watch, activity: !g.watch && g.output.String() != "name"}
	if s.gateway != "" {
		var err error
		if list.parent, err = gatewayName(s.gateway); err != nil {
			return nil, err
		}
	}
	var terms []string
	if s.owner != "" {
		owner, err := g.findWorker(ctx, s.owner)
		if err != nil {
			return nil, err
		}
		terms = append(terms, "owner = "+owner)
	}
	if class := s.class.String(); class != "" {
		terms = append(terms, "class = "+classPrefix+strings.ToUpper(class))
	}
	if s.filter != "" {
		terms = append(terms, s.filter)
	}
	list.filter = strings.Join(terms, " AND ")
	return list.resource(), nil
}

// sessionList is which sessions are fetched and what of them is shown.
type sessionList struct {
	parent, filter           string
	ended, activity, watched bool
}

func (l *sessionList) resource() *resource[*leaseholdv1.Session, *leaseholdv1.ListSessionsResponse] {
	r := &resource[*leaseholdv1.Session, *leaseholdv1.ListSessionsResponse]{
		one: func(ctx context.Context, conn *grpc.ClientConn, name string) (*leaseholdv1.Session, error) {
			response, err := leaseholdv1.NewSessionServiceClient(conn).GetSession(ctx, &leaseholdv1.GetSessionRequest{Name: name})
			return response.GetSession(), err
		},
		page: func(ctx context.Context, conn *grpc.ClientConn, token string) ([]*leaseholdv1.Session, string, error) {
			response, err := leaseholdv1.NewSessionServiceClient(conn).ListSessions(ctx, &leaseholdv1.ListSessionsRequest{
				Parent: l.parent, Filter: l.filter, PageSize: pageSize, PageToken: token, ShowEnded: l.ended, ShowActivity: l.activity,
			})
			return response.GetSessions(), response.GetNextPageToken(), err
		},
		list: func(all []*leaseholdv1.Session) *leaseholdv1.ListSessionsResponse {
			return &leaseholdv1.ListSessionsResponse{Sessions: all}
		},
		open: func(ctx context.Context, conn *grpc.ClientConn, revision int64) (func() (operator.Change[*leaseholdv1.Session], error), error) {
			stream, err := leaseholdv1.NewSessionServiceClient(conn).WatchSessions(ctx, &leaseholdv1.WatchSessionsRequest{
				Revision: revision, Parent: l.parent, Filter: l.filter,
			})
			if err != nil {
				return nil, err
			}
			return received(stream, (*leaseholdv1.WatchSessionsResponse).GetSession), nil
		},
		event: func(change operator.Change[*leaseholdv1.Session]) proto.Message {
			return &leaseholdv1.WatchSessionsResponse{Type: change.Type, Session: change.Resource, Revision: change.Revision}
		},
		columns: []table.Column{
			{Title: "SESSION"}, {Title: "GATEWAY", Least: 12}, {Title: "OWNER"}, {Title: "EPOCH", Least: 5}, {Title: "CLASS", Least: 11}, {Title: "AGE"},
		},
		rows: func(all []*leaseholdv1.Session) [][]string { return sessionRows(all, !l.watched) },
		gone: func(session *leaseholdv1.Session) []string {
			row := sessionRow(session, shortest, time.Now())
			if session.GetEnd() == nil {
				row[4] = "removed"
			}
			return row
		},
	}
	if l.watched { // activity is not; sessions with longer words will come
		r.columns[1].Room, r.columns[4].Room, r.columns[5].Room = 20, 20, 4
		return r
	}
	r.columns = append(r.columns, table.Column{Title: "IDLE"}, table.Column{Title: "CALLS", Least: 6})
	return r
}

// sessionRows names each session by as many digits as tell all of them apart.
func sessionRows(all []*leaseholdv1.Session, activity bool) [][]string {
	now := time.Now()
	digits := telling(all)
	rows := make([][]string, len(all))
	for i, session := range all {
		rows[i] = sessionRow(session, digits, now)
		if activity {
			rows[i] = append(rows[i], activityCells(session, now)...)
		}
	}
	return rows
}

// sessionRow shows why a session has ended in place of its class.
func sessionRow(session *leaseholdv1.Session, digits int, now time.Time) []string {
	gateway, digest := sessionParts(session.GetName())
	class, owner := short(session.GetClass().String(), classPrefix), clip(strings.TrimPrefix(session.GetOwner(), "workers/"), shortest)
	if end := session.GetEnd(); end != nil {
		class, owner = "ended: "+short(end.GetReason().String(), "END_REASON_"), "-"
	}
	return []string{clip(digest, digits), gateway, owner, fmt.Sprint(session.GetEpoch()), class, since(session.GetCreateTime(), now)}
}

func activityCells(session *leaseholdv1.Session, now time.Time) []string {
	activity := session.GetActivity()
	if activity == nil {
		return []string{"-", "-"}
	}
	return []string{since(activity.GetLastUseTime(), now), fmt.Sprint(activity.GetCalls())}
}

// short is how people write the value of an enum.
func short(enum, prefix string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(enum, prefix)), "_", " ")
}
