package main

import (
	"cmp"
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"github.com/leasehold/leasehold/cmd/internal/address"
	"github.com/leasehold/leasehold/cmd/internal/operator"
	"github.com/leasehold/leasehold/cmd/internal/usage"
)

const (
	defaultControl = "127.0.0.1:7070"
	defaultTimeout = 20 * time.Second
)

// client is how an operator's verb reaches the control plane.
type client struct {
	control  []string
	insecure bool
	timeout  time.Duration
}

// flags adds the flags of client to cmd and to all commands below it. A timeout that
// is set already is the default.
func (c *client) flags(cmd *cobra.Command) {
	cmd.PersistentFlags().StringSliceVar(&c.control, "control", []string{defaultControl}, "address of the control plane; several are tried in turn")
	cmd.PersistentFlags().BoolVar(&c.insecure, "insecure", false, "accept a connection without TLS; it is what loopback addresses get anyway, and others never")
	cmd.PersistentFlags().DurationVar(&c.timeout, "timeout", cmp.Or(c.timeout, defaultTimeout), "how long all of it may take")
	// It cannot fail: the flag was just made.
	_ = cmd.RegisterFlagCompletionFunc("control", cobra.NoFileCompletions)
}

// connect checks the flags and connects. The context returned ends after the
// timeout; close ends both.
func (c *client) connect(ctx context.Context) (_ context.Context, _ *grpc.ClientConn, closeAll func(), err error) {
	if err := c.check(); err != nil {
		return nil, nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	conn, err := operator.Dial(ctx, c.control)
	if err != nil {
		cancel()
		return nil, nil, nil, err
	}
	return ctx, conn, func() { _ = conn.Close(); cancel() }, nil
}

func (c *client) check() error {
	if c.timeout <= 0 {
		return usage.Errorf("--timeout: %s is not a time that something could take", c.timeout)
	}
	if len(c.control) == 0 {
		return usage.Errorf("--control: name at least one address")
	}
	for i, addr := range c.control {
		addr = strings.TrimSpace(addr)
		c.control[i] = addr
		if err := address.CheckDial(addr); err != nil {
			return usage.Errorf("--control: %w", err)
		}
		if !address.Loopback(addr) {
			return usage.Errorf("--control: %s is not a loopback address; without certificates, which are not supported yet, "+
				"the control plane is reached on this machine only (a tunnel such as `ssh -L 7070:127.0.0.1:7070 HOST` brings it here)", addr)
		}
	}
	return nil
}
