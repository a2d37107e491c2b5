package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/leasehold/leasehold/cmd/internal/operator"
	"github.com/leasehold/leasehold/cmd/internal/table"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	rotateTimeout = time.Minute
	// rotatePause is how long it takes until the keys are looked at again.
	rotatePause = 300 * time.Millisecond
	// keyStatePrefix is what the states of keys begin with in the API.
	keyStatePrefix = "SESSION_KEY_STATE_"
)

func newKeysSession(to *client) *cobra.Command {
	return &cobra.Command{
		Use:   "session",
		Short: "Show the keys that seal session ids",
		Long: "Shows the keys that seal session ids and, in records, those of upstream sessions:\n" +
			"the one that seals, one that waits until every living worker has it, and those\n" +
			"that only open what they sealed before. EXPIRES is in how long one is removed.",
		Example: "  leasehold keys session",
		Args:    usage.Args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, conn, closeAll, err := to.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer closeAll()
			keys, err := sessionKeys(ctx, conn)
			if err != nil {
				return err
			}
			return writeSessionKeys(cmd.OutOrStdout(), keys, time.Now())
		},
	}
}

func sessionKeys(ctx context.Context, conn *grpc.ClientConn) ([]*leaseholdv1.SessionKey, error) {
	resp, err := leaseholdv1.NewKeyServiceClient(conn).GetSessionKeys(ctx, &leaseholdv1.GetSessionKeysRequest{})
	if err != nil {
		return nil, operator.Explain(err)
	}
	return resp.GetKeys(), nil
}

func writeSessionKeys(w io.Writer, keys []*leaseholdv1.SessionKey, now time.Time) error {
	rows := make([][]string, len(keys))
	for i, key := range keys {
		expires := "-"
		if key.GetExpireTime() != nil {
			expires = brief(key.GetExpireTime().AsTime().Sub(now))
		}
		rows[i] = []string{key.GetId(), keyState(key), since(key.GetCreateTime(), now), since(key.GetSealTime(), now), expires}
	}
	return table.Write(w, []table.Column{{Title: "KEY"}, {Title: "STATE"}, {Title: "AGE"}, {Title: "SEALED-SINCE"}, {Title: "EXPIRES"}}, rows)
}

func keyState(key *leaseholdv1.SessionKey) string {
	return strings.TrimPrefix(key.GetState().String(), keyStatePrefix)
}

func newRotateSession(to *client) *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "session",
		Short: "Make a new key that seals session ids",
		Long: "Makes a new key that seals session ids, at once; without it, that happens when the\n" +
			"present one is as old as --session-key-rotation of the control plane says. No\n" +
			"session ends: ids under the present key are good for as long as before. Waits\n" +
			"until the new key seals, which is when every living worker has it; it will also\n" +
			"when this command has ended.",
		Example: "  leasehold keys rotate session\n  leasehold keys rotate session --wait=false",
		Args:    usage.Args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, conn, closeAll, err := to.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer closeAll()
			resp, err := leaseholdv1.NewKeyServiceClient(conn).RotateSessionKey(ctx, &leaseholdv1.RotateSessionKeyRequest{})
			if err != nil {
				return operator.Explain(err)
			}
			id := resp.GetKey().GetId()
			if !wait {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "session key %s made; it seals once every living worker has it\n", id)
				return err
			}
			if err := awaitSealing(ctx, conn, id); err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "session key %s seals\n", id)
			return err
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", true, "wait until it seals; without, only have it made")
	return cmd
}

// awaitSealing waits until a key that was made does not wait to seal any more.
func awaitSealing(ctx context.Context, conn *grpc.ClientConn, id string) error {
	for {
		keys, err := sessionKeys(ctx, conn)
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("session key %s was made; whether it seals is not known: %w", id, err)
		}
		for _, key := range keys {
			if key.GetId() == id && key.GetState() != leaseholdv1.SessionKeyState_SESSION_KEY_STATE_WAITING {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("session key %s was made, and does not seal yet: a worker has not acknowledged it (--timeout); "+
				"it will when every living one has, which `leasehold keys session` shows", id)
		case <-time.After(rotatePause):
		}
	}
}
