package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/leasehold/leasehold/cmd/internal/table"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func newGetSessions(to *client, output *usage.Choice) *cobra.Command {
	var gateway string
	var ended bool
	cmd := &cobra.Command{
		Use:     "sessions [NAME]",
		Aliases: []string{"session", "sess"},
		Short:   "Show client sessions and who owns them",
		Long: "Shows client sessions: which worker owns each of them, how many owners it has\n" +
			"had (epoch), and what becomes of it when its owner goes away (class). Sessions\n" +
			"are named by a digest of their id, which no client could use.",
		Example: "  leasehold get sessions --gateway counter\n  leasehold get session counter/4f1c2d3e4f5061728394a5b6c7d8e9f0 -o json",
		Args:    usage.Args(0, 1, "the name of a session"),
		RunE: func(cmd *cobra.Command, args []string) error {
			name, parent, err := selectSessions(args, gateway)
			if err != nil {
				return err
			}
			ctx, conn, closeAll, err := to.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer closeAll()
			return sessions(parent, ended).print(ctx, conn, name, output, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&gateway, "gateway", "", "only the sessions of this gateway")
	cmd.Flags().BoolVar(&ended, "ended", false, "also sessions that have ended and are still remembered")
	return cmd
}

// selectSessions returns the name of the one session that was asked for, or the
// parent of all that were.
func selectSessions(args []string, gateway string) (name, parent string, err error) {
	if gateway != "" {
		if parent, err = gatewayName(gateway); err != nil {
			return "", "", err
		}
	}
	if len(args) == 1 {
		name, err = sessionName(args[0], gateway)
	}
	return name, parent, err
}

func sessions(parent string, ended bool) *resource[*leaseholdv1.Session, *leaseholdv1.ListSessionsResponse] {
	return &resource[*leaseholdv1.Session, *leaseholdv1.ListSessionsResponse]{
		one: func(ctx context.Context, conn *grpc.ClientConn, name string) (*leaseholdv1.Session, error) {
			response, err := leaseholdv1.NewSessionServiceClient(conn).GetSession(ctx, &leaseholdv1.GetSessionRequest{Name: name})
			return response.GetSession(), err
		},
		page: func(ctx context.Context, conn *grpc.ClientConn, token string) ([]*leaseholdv1.Session, string, error) {
			response, err := leaseholdv1.NewSessionServiceClient(conn).ListSessions(ctx, &leaseholdv1.ListSessionsRequest{
				Parent: parent, PageSize: pageSize, PageToken: token, ShowEnded: ended,
			})
			return response.GetSessions(), response.GetNextPageToken(), err
		},
		list: func(all []*leaseholdv1.Session) *leaseholdv1.ListSessionsResponse {
			return &leaseholdv1.ListSessionsResponse{Sessions: all}
		},
		columns: []table.Column{{Title: "SESSION", Least: 30}, {Title: "EPOCH"}, {Title: "STATE"}, {Title: "OWNER", Least: 8}},
		row:     sessionRow,
	}
}

// sessionRow shows the class of a live session as its state, and why another
// one has ended.
func sessionRow(session *leaseholdv1.Session) []string {
	state := short(session.GetClass().String(), "CLASS_")
	owner := strings.TrimPrefix(session.GetOwner(), "workers/")
	if end := session.GetEnd(); end != nil {
		state, owner = "ended: "+short(end.GetReason().String(), "END_REASON_"), ""
	}
	name := strings.TrimPrefix(session.GetName(), "gateways/")
	return []string{strings.Replace(name, "/sessions/", "/", 1), fmt.Sprint(session.GetEpoch()), state, owner}
}

func short(enum, prefix string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(enum, prefix)), "_", " ")
}
