package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/leasehold/leasehold/cmd/internal/operator"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// rekeyTimeout is enough for 100,000 gateways.
const rekeyTimeout = 10 * time.Minute

// maxLockedShown bounds the names of gateways that cannot be opened in an error.
const maxLockedShown = 20

func newRotateRoot(to *client) *cobra.Command {
	return &cobra.Command{
		Use:   "root",
		Short: "Wrap everything under the first root key",
		Long: "Wraps every data key and the key ring under the root key that is first in the\n" +
			"replicas' files, and seals secrets that an earlier version stored in clear; at\n" +
			"most 200 gateways a second. No session and no watch notices. `leasehold keys\n" +
			"--help` says how to rotate the root key from the beginning.\n\n" +
			"Name every replica in --control: unless all of them have the same key first,\n" +
			"nothing is done. The command may be broken off and repeated. It fails as long as\n" +
			"something is left that needs another root key.",
		Example: "  leasehold keys rotate root --control cp-1:7070,cp-2:7070",
		Args:    usage.Args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return rotateRoot(cmd.Context(), to, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
}

func newRotateData(to *client) *cobra.Command {
	return &cobra.Command{
		Use:   "data",
		Short: "Seal secrets under new data keys",
		Long: "Seals the secrets of every gateway under a new data key, at most 200 gateways a\n" +
			"second. No session and no watch notices. A gateway gets a new data key with each\n" +
			"change anyway. The command may be broken off and repeated.",
		Example: "  leasehold keys rotate data",
		Args:    usage.Args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return rotateData(cmd.Context(), to, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
}

// rotated is what a rotation has done so far.
type rotated struct {
	gateways, changed int32
	locked            []string
	ring              bool
}

func (r rotated) String() string {
	text := fmt.Sprintf("gateways with secrets: %d, rotated: %d", r.gateways, r.changed)
	if r.ring {
		text += "; key ring rotated"
	}
	return text
}

// err says which gateways were left, if any.
func (r rotated) err() error {
	if len(r.locked) == 0 {
		return nil
	}
	shown := r.locked[:min(len(r.locked), maxLockedShown)]
	more := ""
	if n := len(r.locked) - len(shown); n > 0 {
		more = fmt.Sprintf(" and %d more", n)
	}
	return fmt.Errorf("gateways that cannot be opened, and were left as they are: %s%s\n"+
		"`leasehold describe gateway NAME` says why", strings.Join(shown, ", "), more)
}

// rotateRoot rotates, and then looks whether anything needs another root key.
func rotateRoot(ctx context.Context, to *client, stdout, stderr io.Writer) error {
	replicas, err := to.rootKeys(ctx)
	if err != nil {
		return err
	}
	key := replicas[0].wraps()
	for _, r := range replicas[1:] {
		if r.wraps() != key {
			return fmt.Errorf("%s wraps with root key %s, %s with %s: give every replica the same file first",
				replicas[0].address, key, r.address, r.wraps())
		}
	}
	done, err := to.rotate(ctx, stderr, func(ctx context.Context, conn *grpc.ClientConn, token string) (rotated, string, error) {
		r, err := leaseholdv1.NewKeyServiceClient(conn).RotateRootKey(ctx, &leaseholdv1.RotateRootKeyRequest{RootKey: key, PageToken: token})
		return rotated{r.GetGateways(), r.GetRotated(), r.GetLocked(), r.GetKeyRingRotated()}, r.GetNextPageToken(), err
	})
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(stdout, "root key %s: %s\n", key, done); err != nil {
		return err
	}
	if replicas, err = to.rootKeys(ctx); err != nil {
		return errors.Join(done.err(), err)
	}
	if left := replicas[0].left(key); left != "" {
		return errors.Join(done.err(), fmt.Errorf("keep the other root keys: there is something left%s\n"+
			"a replica that wraps with another key has written meanwhile, or a root key is missing", left))
	}
	_, err = fmt.Fprintln(stderr, "note: nothing needs another root key: its line may be removed at every replica")
	return errors.Join(done.err(), err)
}

func rotateData(ctx context.Context, to *client, stdout, stderr io.Writer) error {
	done, err := to.rotate(ctx, stderr, func(ctx context.Context, conn *grpc.ClientConn, token string) (rotated, string, error) {
		r, err := leaseholdv1.NewKeyServiceClient(conn).RotateDataKeys(ctx, &leaseholdv1.RotateDataKeysRequest{PageToken: token})
		return rotated{gateways: r.GetGateways(), changed: r.GetRotated(), locked: r.GetLocked()}, r.GetNextPageToken(), err
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(stdout, "data keys: %s\n", done)
	return errors.Join(done.err(), err)
}

// rotate makes a rotation's calls, at whichever replica answers, until all is done.
func (c *client) rotate(ctx context.Context, stderr io.Writer, part func(ctx context.Context, conn *grpc.ClientConn, token string) (rotated, string, error)) (sum rotated, err error) {
	if err := c.check(); err != nil {
		return sum, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, errSlow)
	defer cancel()
	caller := operator.NewCaller(c.control, c.credentials, func(text string) { fmt.Fprintln(stderr, "note:", text) })
	defer caller.Close()
	for token, more := "", true; more; more = token != "" {
		var one rotated
		err := caller.Call(ctx, func(ctx context.Context, conn *grpc.ClientConn) (err error) {
			var next string
			if one, next, err = part(ctx, conn, token); err == nil {
				token = next
			}
			return err
		})
		if err != nil {
			return sum, fmt.Errorf("broken off after %v; repeat it to go on: %w", sum, err)
		}
		sum = rotated{sum.gateways + one.gateways, sum.changed + one.changed, append(sum.locked, one.locked...), sum.ring || one.ring}
		if token != "" {
			fmt.Fprintln(stderr, "so far:", sum)
		}
	}
	return sum, nil
}
