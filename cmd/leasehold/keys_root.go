package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/leasehold/leasehold/cmd/internal/operator"
	"github.com/leasehold/leasehold/cmd/internal/table"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func newKeysRoot(to *client) *cobra.Command {
	return &cobra.Command{
		Use:   "root",
		Short: "Show root keys, and what is wrapped under them",
		Long: "Shows the root keys of a replica of the control plane, by ids that say nothing of\n" +
			"the keys, and how many data keys are wrapped under each. Of a key that the replica\n" +
			"does not have, it cannot use what is wrapped under it. Shows each replica's that\n" +
			"--control names.",
		Example: "  leasehold keys root\n  leasehold keys root --control cp-1:7070,cp-2:7070",
		Args:    usage.Args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			replicas, err := to.rootKeys(cmd.Context())
			if err != nil {
				return err
			}
			for i, r := range replicas {
				if i > 0 {
					fmt.Fprintln(cmd.OutOrStdout())
				}
				if len(replicas) > 1 {
					fmt.Fprintf(cmd.OutOrStdout(), "%s:\n", r.address)
				}
				if err := r.write(cmd.OutOrStdout(), time.Now()); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// replicaKeys are the root keys of one replica.
type replicaKeys struct {
	address string
	*leaseholdv1.GetRootKeysResponse
}

// rootKeys asks each replica that is named.
func (c *client) rootKeys(ctx context.Context) ([]replicaKeys, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	var all []replicaKeys
	for _, address := range c.control {
		one := *c
		one.control = []string{address}
		ctx, conn, closeAll, err := one.connect(ctx)
		if err != nil {
			return nil, err
		}
		resp, err := leaseholdv1.NewKeyServiceClient(conn).GetRootKeys(ctx, &leaseholdv1.GetRootKeysRequest{})
		closeAll()
		if err != nil {
			return nil, fmt.Errorf("root keys of %s: %w", address, operator.Explain(err))
		}
		all = append(all, replicaKeys{address, resp})
	}
	return all, nil
}

// wraps is the id of the key that the replica wraps with.
func (r replicaKeys) wraps() string {
	for _, key := range r.GetKeys() {
		if key.GetWraps() {
			return key.GetId()
		}
	}
	return ""
}

// left describes what is wrapped under other keys than id, or not at all; empty if
// nothing is.
func (r replicaKeys) left(id string) (text string) {
	for _, key := range r.GetKeys() {
		if key.GetId() != id && (key.GetDataKeys() > 0 || key.GetKeyRing()) {
			text += fmt.Sprintf("\nunder %s: %s", key.GetId(), uses(key))
		}
	}
	if n := r.GetUnsealedGateways(); n > 0 {
		text += fmt.Sprintf("\nin clear: the secrets of gateways, %d of them", n)
	}
	return text
}

func uses(key *leaseholdv1.RootKey) string {
	text := fmt.Sprintf("data keys: %d", key.GetDataKeys())
	if key.GetKeyRing() {
		text += ", and the key ring"
	}
	return text
}

func (r replicaKeys) write(out io.Writer, now time.Time) error {
	var rows [][]string
	for _, key := range r.GetKeys() {
		use := "unwraps"
		switch {
		case key.GetWraps():
			use = "wraps"
		case !key.GetKnown():
			use = "missing"
		}
		rows = append(rows, []string{key.GetId(), use, fmt.Sprint(key.GetDataKeys()), yesNo(key.GetKeyRing())})
	}
	err := table.Write(out, []table.Column{{Title: "ROOT KEY"}, {Title: "USE"}, {Title: "DATA KEYS"}, {Title: "KEY RING"}}, rows)
	if err == nil && r.GetOldestDataKeyTime() != nil {
		_, err = fmt.Fprintf(out, "age of data keys: %s to %s\n", since(r.GetNewestDataKeyTime(), now), since(r.GetOldestDataKeyTime(), now))
	}
	if n := r.GetUnsealedGateways(); err == nil && n > 0 {
		_, err = fmt.Fprintf(out, "gateways whose secrets are stored in clear: %d; `leasehold keys rotate root` seals them\n", n)
	}
	return err
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}
