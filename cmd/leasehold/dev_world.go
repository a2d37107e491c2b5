package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leasehold/leasehold/cmd/internal/admin"
	"github.com/leasehold/leasehold/cmd/internal/demo"
	"github.com/leasehold/leasehold/cmd/internal/version"
	"github.com/leasehold/leasehold/controlplane"
	"github.com/leasehold/leasehold/dataplane"
)

// workersStop is how long the workers have to leave before the control plane,
// which they need for that, is stopped too.
const workersStop = 4 * time.Second

// world is everything that `leasehold dev` runs.
type world struct {
	flags     *dev
	listeners *listeners
	logger    hclog.Logger
	health    *admin.Health
	registry  *prometheus.Registry

	control, admin, demo *part
	workers              []*part
	failed               chan error // the first part that ended by itself
}

// part is one thing that runs in a world.
type part struct {
	cancel context.CancelFunc
	ready  chan struct{} // closed when it is ready for the first time
	done   chan struct{} // closed when it has ended
	err    error         // why; read after done
}

func newWorld(flags *dev, listeners *listeners, logger hclog.Logger) *world {
	return &world{
		flags: flags, listeners: listeners, logger: logger,
		health: &admin.Health{}, registry: admin.NewRegistry(),
		failed: make(chan error, 1),
	}
}

// launch runs one part. A part lives until it is stopped, not until a context
// ends: parts stop in an order.
func (w *world) launch(name string, work func(ctx context.Context, health func(error)) error) *part {
	ctx, cancel := context.WithCancel(context.Background())
	p := &part{cancel: cancel, ready: make(chan struct{}), done: make(chan struct{})}
	report, ready := w.health.Part(name), sync.OnceFunc(func() { close(p.ready) })
	go func() {
		defer close(p.done)
		err := work(ctx, func(err error) {
			report(err)
			if err == nil {
				ready()
			}
		})
		if ctx.Err() == nil {
			select {
			case w.failed <- fmt.Errorf("%s: %w", name, endless(ctx, err)):
			default:
			}
		} else if err != nil && !errors.Is(err, context.Canceled) {
			p.err = fmt.Errorf("%s: %w", name, err)
		}
	}()
	return p
}

// start starts all parts in the order in which they need each other, and
// returns when all are ready and the demo is in every worker.
func (w *world) start(ctx context.Context) error {
	w.admin = w.launch("admin", func(ctx context.Context, health func(error)) error {
		health(nil)
		return admin.Serve(ctx, w.listeners.admin, w.health, w.registry, w.logger.Named("admin"))
	})
	if w.listeners.demo != nil {
		w.demo = w.launch("demo", func(ctx context.Context, health func(error)) error {
			health(nil)
			return demo.New(version.Number(), w.logger.Named("demo")).Run(ctx, w.listeners.demo)
		})
	}
	w.control = w.launch("controlplane", w.runControlPlane)
	if err := w.await(ctx, w.control); err != nil {
		return err
	}
	for i := range w.listeners.clients {
		w.workers = append(w.workers, w.launch(fmt.Sprintf("worker %d", i), func(ctx context.Context, health func(error)) error {
			return w.runWorker(ctx, i, health)
		}))
	}
	if err := w.await(ctx, w.workers...); err != nil {
		return err
	}
	if w.demo == nil {
		return nil
	}
	return w.registerDemo(ctx)
}

func (w *world) runControlPlane(ctx context.Context, health func(error)) error {
	return controlplane.Run(ctx, controlplane.Config{
		Listener:     w.listeners.control,
		EmbeddedEtcd: true,
		DataDir:      filepath.Join(w.flags.dataDir, controlPlaneDir),
		MaxOutage:    w.flags.outage,
		Version:      version.Number(),
		Logger:       w.logger.Named("controlplane"),
		Metrics:      prometheus.WrapRegistererWith(prometheus.Labels{"part": "controlplane"}, w.registry),
		Health:       health,
	})
}

func (w *world) runWorker(ctx context.Context, i int, health func(error)) error {
	name := workerPart(i)
	return dataplane.Run(ctx, dataplane.Config{
		Listener:     w.listeners.clients[i],
		PeerListener: w.listeners.peers[i],
		AdminAddress: bound(w.listeners.admin),
		Control:      []string{bound(w.listeners.control)},
		DataDir:      w.flags.workerDir(i),
		Zone:         "dev",
		AllowStdio:   w.flags.allow, MaxPrograms: w.flags.max, ProgramMemory: int64(w.flags.memory),
		Version: version.Number(),
		Logger:  w.logger.Named(name),
		Metrics: prometheus.WrapRegistererWith(prometheus.Labels{"part": name}, w.registry),
		Health:  health,
	})
}

// await waits until parts are ready.
func (w *world) await(ctx context.Context, parts ...*part) error {
	for _, p := range parts {
		select {
		case <-p.ready:
		case err := <-w.failed:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// wait returns when ctx ends, or when a part ended by itself.
func (w *world) wait(ctx context.Context) error {
	select {
	case err := <-w.failed:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// stop stops all parts: the workers first, because they leave through the
// control plane, and the upstream last, because they end sessions there.
func (w *world) stop() error {
	limit := time.NewTimer(workersStop)
	defer limit.Stop()
	for _, p := range w.workers {
		p.cancel()
	}
	for _, p := range w.workers {
		select {
		case <-p.done:
		case <-limit.C:
			limit.Reset(0)
		}
	}
	errs := []error{}
	for _, p := range append([]*part{w.control, w.demo, w.admin}, w.workers...) {
		if p != nil {
			p.cancel()
			<-p.done
			errs = append(errs, p.err)
		}
	}
	w.listeners.close()
	return errors.Join(errs...)
}
