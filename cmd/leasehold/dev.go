package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/leasehold/leasehold/cmd/internal/address"
	"github.com/leasehold/leasehold/cmd/internal/dirlock"
	"github.com/leasehold/leasehold/cmd/internal/usage"
)

const (
	defaultDevListen  = "127.0.0.1:8080"
	defaultDevWorkers = 2
	maxDevWorkers     = 64
	// controlPlaneDir is the control plane's directory in the data directory.
	controlPlaneDir = "controlplane"
)

// dev is the command's flags.
type dev struct {
	daemon
	programs
	maxOutage
	dataDir, listen, controlListen string
	workers                        int
	noDemo                         bool
}

func newDev() *cobra.Command {
	d := &dev{}
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run everything in one process, to try it",
		Long: "Runs an etcd server, a control plane, workers and a demo upstream in this process,\n" +
			"on loopback addresses only, and prints what to do with them. Gateways stay in the\n" +
			"data directory. Ctrl-C ends it.\n\n" +
			"Its parts speak mutual TLS, with certificates of an authority that it makes in the\n" +
			"data directory. The control plane takes operators without certificates too: anyone\n" +
			"on this machine.\n\n" +
			"With --allow-stdio gateways with TRANSPORT_STDIO can run programs on this machine.",
		Example: "  leasehold dev\n  leasehold dev --workers 3 --listen 127.0.0.1:0 --data-dir /tmp/leasehold\n  leasehold dev --allow-stdio",
		Args:    usage.Args(0, 0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := d.check(); err != nil {
				return err
			}
			return d.daemon.run(cmd, 0, func(ctx context.Context, logger hclog.Logger) error {
				return d.serve(ctx, logger, cmd.OutOrStdout())
			})
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&d.dataDir, "data-dir", "", "directory to keep state in (default $XDG_STATE_HOME/leasehold/dev, which is ~/.local/state/leasehold/dev)")
	flags.IntVar(&d.workers, "workers", defaultDevWorkers, "how many workers to run")
	flags.StringVar(&d.listen, "listen", defaultDevListen, "address of the first worker; the others have the next ports; port 0 takes free ones")
	flags.StringVar(&d.controlListen, "control-listen", defaultControl, "address of the control plane")
	flags.BoolVar(&d.noDemo, "no-demo", false, "do not run the demo upstream, and leave gateways/demo alone")
	d.programs.flags(cmd)
	d.maxOutage.flag(cmd)
	d.daemon.flags(cmd, "warn")
	return cmd
}

func (d *dev) check() error {
	for flag, addr := range map[string]string{"listen": d.listen, "control-listen": d.controlListen} {
		if err := checkListen(flag, addr); err != nil {
			return err
		}
		if !address.Loopback(addr) {
			return usage.Errorf("--%s: %s is not a loopback address; `leasehold dev` serves this machine only (127.0.0.1, [::1], localhost): "+
				"use `leasehold controlplane` and `leasehold worker` for others", flag, addr)
		}
	}
	if d.workers < 1 || d.workers > maxDevWorkers {
		return usage.Errorf("--workers: %d is not between 1 and %d", d.workers, maxDevWorkers)
	}
	if _, err := address.Offset(d.listen, d.workers-1); err != nil {
		return usage.Errorf("--listen: the last of %d workers: %w", d.workers, err)
	}
	if err := d.programs.check(); err != nil {
		return err
	}
	if err := d.maxOutage.check(); err != nil {
		return err
	}
	if d.dataDir == "" {
		var err error
		if d.dataDir, err = stateDir(); err != nil {
			return usage.Errorf("--data-dir: name a directory: %w", err)
		}
	}
	return nil
}

// stateDir returns where a user's programs keep their state.
func stateDir() (string, error) {
	if state := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(state) {
		return filepath.Join(state, "leasehold", "dev"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(home, ".local", "state", "leasehold", "dev"), nil
}

// workerDir returns the directory of worker i.
func (d *dev) workerDir(i int) string { return filepath.Join(d.dataDir, workerPart(i)) }

// workerPart returns what worker i is called.
func workerPart(i int) string { return fmt.Sprintf("worker-%d", i) }

func (d *dev) serve(ctx context.Context, logger hclog.Logger, stdout io.Writer) (err error) {
	// The others are what `leasehold controlplane` and `leasehold worker` would lock.
	dirs := []string{d.dataDir, filepath.Join(d.dataDir, controlPlaneDir)}
	for i := range d.workers {
		dirs = append(dirs, d.workerDir(i))
	}
	for _, dir := range dirs {
		lock, err := dirlock.Acquire(dir)
		if err != nil {
			return err
		}
		defer lock.Release()
	}
	proof, err := d.certify(logger)
	if err != nil {
		return err
	}
	listeners, err := d.open()
	if err != nil {
		return err
	}
	world := newWorld(d, listeners, proof, logger)
	defer func() {
		if ctx.Err() != nil {
			err = nil // it was asked to stop: only what went wrong in that counts
		}
		err = errors.Join(err, world.stop())
	}()
	if err := world.start(ctx); err != nil {
		return err
	}
	if _, err := fmt.Fprint(stdout, world.welcome()); err != nil {
		return err
	}
	return world.wait(ctx)
}
