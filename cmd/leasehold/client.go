package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/leasehold/leasehold/cmd/internal/address"
	"github.com/leasehold/leasehold/cmd/internal/operator"
	"github.com/leasehold/leasehold/cmd/internal/trust"
	"github.com/leasehold/leasehold/cmd/internal/usage"
)

const (
	defaultControl = "127.0.0.1:7070"
	defaultTimeout = 20 * time.Second
)

// client is how an operator's verb reaches the control plane.
type client struct {
	control  []string
	files    certFiles
	insecure bool
	timeout  time.Duration
}

// flags adds the flags of client to cmd and to all commands below it. A timeout that
// is set already is the default.
func (c *client) flags(cmd *cobra.Command) {
	cmd.PersistentFlags().StringSliceVar(&c.control, "control", []string{defaultControl}, "address of the control plane; several are tried in turn")
	c.files.flags(cmd.PersistentFlags(), "cluster", "the operator's certificate", "the control plane, which is spoken to over mutual TLS")
	cmd.PersistentFlags().BoolVar(&c.insecure, "insecure", false, "accept a connection without TLS; it is what loopback addresses get without certificates anyway, and others never")
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
	creds, err := c.credentials()
	if err != nil {
		cancel()
		return nil, nil, nil, err
	}
	conn, err := operator.Dial(ctx, c.control, creds)
	if err != nil {
		cancel()
		return nil, nil, nil, err
	}
	return ctx, conn, func() { _ = conn.Close(); cancel() }, nil
}

// credentials reads the certificates; nil means plaintext.
func (c *client) credentials() (credentials.TransportCredentials, error) {
	if !c.files.given() {
		return nil, nil
	}
	files, err := trust.Load(c.files.paths, hclog.NewNullLogger(), trust.Operator)
	if err != nil {
		return nil, fmt.Errorf("cluster certificates: %w", err)
	}
	return files.Client(trust.ControlPlane), nil
}

func (c *client) check() error {
	if err := c.files.check(); err != nil {
		return err
	}
	if c.timeout <= 0 {
		return usage.Errorf("--timeout: %s is not a time that something could take", c.timeout)
	}
	if len(c.control) == 0 {
		return usage.Errorf("--control: name at least one address")
	}
	if c.insecure && c.files.given() {
		return usage.Errorf("--insecure and --cluster-cert exclude each other")
	}
	for i, addr := range c.control {
		addr = strings.TrimSpace(addr)
		c.control[i] = addr
		if err := address.CheckDial(addr); err != nil {
			return usage.Errorf("--control: %w", err)
		}
		if !address.Loopback(addr) && !c.files.given() {
			return usage.Errorf("--control: %s is not a loopback address; without certificates (--cluster-ca, --cluster-cert, --cluster-key) "+
				"the control plane is reached on this machine only", addr)
		}
	}
	return nil
}
