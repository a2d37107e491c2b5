package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/leasehold/leasehold/cmd/internal/operator"
	"github.com/leasehold/leasehold/cmd/internal/table"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// completeLimit is how long a shell waits for names. Whatever goes wrong in that
// time, the shell offers nothing and says nothing.
const completeLimit = time.Second

// completer asks the control plane for names. A name may be followed by a tab
// and what a shell shows beside it.
type completer struct {
	to *client
	// ask returns at most one page of names that may go on from begun.
	ask func(ctx context.Context, conn *grpc.ClientConn, begun string) ([]string, error)
}

// only completes the first n arguments.
func (c completer) only(n int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= n {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c.flag(cmd, args, begun)
	}
}

// flag completes the value of a flag.
func (c completer) flag(cmd *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
	return c.names(cmd, begun), cobra.ShellCompDirectiveNoFileComp
}

func (c completer) names(cmd *cobra.Command, begun string) []string {
	// A shell's question does not go the way of a command: the environment has
	// not been looked at.
	if usage.ApplyEnv(cmd) != nil || c.to.check() != nil {
		return nil
	}
	parent := cmd.Context()
	if parent == nil {
		parent = context.Background()
	}
	ctx, cancel := context.WithTimeout(parent, completeLimit)
	defer cancel()
	conn, err := operator.Dial(ctx, c.to.control)
	if err != nil {
		return nil
	}
	defer conn.Close()
	names, err := c.ask(ctx, conn, begun)
	if err != nil {
		return nil
	}
	var fitting []string
	for _, name := range names {
		if strings.HasPrefix(name, begun) {
			fitting = append(fitting, name)
		}
	}
	return fitting
}

// completeGateways completes ids of gateways, or full names where one was begun.
func completeGateways(to *client) completer {
	return completer{to: to, ask: func(ctx context.Context, conn *grpc.ClientConn, begun string) ([]string, error) {
		all, _, err := gateways("").page(ctx, conn, "")
		names := make([]string, len(all))
		for i, gateway := range all {
			names[i] = shownAs(gateway.GetName(), "gateways/", begun)
			if description := gateway.GetDescription(); description != "" {
				names[i] += "\t" + oneLine(description)
			}
		}
		return names, err
	}}
}

// completeWorkers completes ids of workers in one of these states; where none is
// given, of all that have not left.
func completeWorkers(to *client, states ...leaseholdv1.WorkerState) completer {
	fits := func(state leaseholdv1.WorkerState) bool {
		if len(states) == 0 {
			return state != leaseholdv1.WorkerState_WORKER_STATE_LEFT
		}
		return slices.Contains(states, state)
	}
	return completer{to: to, ask: func(ctx context.Context, conn *grpc.ClientConn, begun string) ([]string, error) {
		all, _, err := (&workerList{dead: true}).resource().page(ctx, conn, "")
		var names []string
		for _, worker := range all {
			if !fits(worker.GetState()) {
				continue
			}
			description := short(worker.GetState().String(), statePrefix) + ", " + worker.GetListenAddress()
			names = append(names, shownAs(worker.GetName(), "workers/", begun)+"\t"+oneLine(description))
		}
		return names, err
	}}
}

// completeSessions completes GATEWAY/DIGEST, or whatever form was begun.
func completeSessions(to *client) completer {
	return completer{to: to, ask: func(ctx context.Context, conn *grpc.ClientConn, begun string) ([]string, error) {
		list := &sessionList{}
		if gateway, _, whole := strings.Cut(strings.TrimPrefix(begun, "gateways/"), "/"); whole {
			list.parent = "gateways/" + gateway
		}
		all, _, err := list.resource().page(ctx, conn, "")
		var names []string
		for _, session := range all {
			gateway, digest := sessionParts(session.GetName())
			shown := gateway + "/" + digest
			switch {
			case strings.HasPrefix(begun, "gateways/"), strings.HasPrefix(begun, gateway+"/s"):
				shown = shownAs(session.GetName(), "gateways/", begun)
			case hexadecimal(begun) && strings.HasPrefix(digest, begun) && !strings.HasPrefix(gateway, begun):
				shown = digest
			}
			names = append(names, shown+"\t"+describeClient(session))
		}
		return names, err
	}}
}

// describeClient says in a few words whose session it is.
func describeClient(session *leaseholdv1.Session) string {
	text := short(session.GetClass().String(), classPrefix)
	if name := session.GetClient().GetName(); name != "" {
		text += ", " + name
	}
	return oneLine(text)
}

// shownAs leaves out the prefix of a name unless it was begun with it.
func shownAs(name, prefix, begun string) string {
	if strings.HasPrefix(begun, prefix) {
		return name
	}
	return strings.TrimPrefix(name, prefix)
}

// oneLine makes of a text what fits beside a name.
func oneLine(text string) string {
	const most = 60
	runes := []rune(table.Printable(strings.Join(strings.Fields(text), " ")))
	if len(runes) > most {
		runes = append(runes[:most-1], '…')
	}
	return string(runes)
}
