package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/leasehold/leasehold/cmd/internal/address"
	"github.com/leasehold/leasehold/cmd/internal/logs"
	"github.com/leasehold/leasehold/cmd/internal/signals"
	"github.com/leasehold/leasehold/cmd/internal/usage"
)

// stopLimit is how long a daemon may take to end. The planes end within less;
// this is for the case that they do not.
const stopLimit = 4800 * time.Millisecond

// defaultAdmin is the admin listener of a daemon: a free port, which its ready
// line names.
const defaultAdmin = "127.0.0.1:0"

// daemon is what the long-running commands have in common.
type daemon struct {
	level, format *usage.Choice
}

// flags adds the flags of the log; level is its default level.
func (d *daemon) flags(cmd *cobra.Command, level string) {
	d.level, d.format = usage.NewChoice(level, logs.Levels()...), usage.NewChoice("text", logs.Formats()...)
	cmd.Flags().Var(d.level, "log-level", "how much to log, to standard error")
	cmd.Flags().Var(d.format, "log-format", "how to write the log")
	// They cannot fail: the flags were just made.
	_ = cmd.RegisterFlagCompletionFunc("log-level", d.level.Complete)
	_ = cmd.RegisterFlagCompletionFunc("log-format", d.format.Complete)
}

// run runs work until it ends or a signal asks for it, and then for no longer
// than stopLimit and what it may take beyond that.
func (d *daemon) run(cmd *cobra.Command, beyond time.Duration, work func(context.Context, hclog.Logger) error) error {
	logger := logs.New(cmd.ErrOrStderr(), d.level.String(), d.format.String())
	ctx, release := signals.Context(cmd.Context(), os.Exit)
	defer release()
	done := make(chan error, 1)
	go func() { done <- work(ctx, logger) }()
	select {
	case err := <-done:
		return stopped(ctx, err)
	case <-ctx.Done():
	}
	logger.Debug("stopping")
	limit := time.NewTimer(stopLimit + beyond)
	defer limit.Stop()
	select {
	case err := <-done:
		return stopped(ctx, err)
	case <-limit.C:
		return fmt.Errorf("did not stop within %s", stopLimit+beyond)
	}
}

// stopped makes of the error of a daemon that was asked to stop what is to be
// reported: that it stopped is not an error.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, signals.ErrStopped)) {
		return nil
	}
	return err
}

// checkListen checks the form of a listener's address.
func checkListen(flag, addr string) error {
	if addr == "" {
		return usage.Errorf("--%s: is needed, for example --%s 127.0.0.1:0", flag, flag)
	}
	if err := address.Check(addr); err != nil {
		return usage.Errorf("--%s: %w", flag, err)
	}
	return nil
}

// endless makes an error of it that something ended without an error which
// nobody had asked to end.
func endless(ctx context.Context, err error) error {
	if err == nil && ctx.Err() == nil {
		return errors.New("ended by itself")
	}
	return err
}
