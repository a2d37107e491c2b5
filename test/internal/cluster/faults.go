package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
)

// Pause stops a process where it is, with SIGSTOP.
func (p *Process) Pause() error { return p.Signal(syscall.SIGSTOP) }

// Resume lets a paused process go on.
func (p *Process) Resume() error { return p.Signal(syscall.SIGCONT) }

// Become has a process run another program once it is started again.
func (p *Process) Become(path string) { p.command.Path = path }

// restart starts a process that has ended once more, with the same arguments,
// and returns the new one.
func (c *Cluster) restart(ctx context.Context, p *Process, started func(pid int)) (*Process, error) {
	if p.Running() {
		return nil, fmt.Errorf("restart %s: it still runs", p.Name)
	}
	command := p.command
	command.Started = started
	return c.run(ctx, command)
}

// RestartWorker starts a worker that has ended once more, at its addresses and on
// its data directory. The ledgers know it before it is ready. Do not read
// w.Process meanwhile.
func (c *Cluster) RestartWorker(ctx context.Context, w *Worker) error {
	var introduced error
	p, err := c.restart(ctx, w.Process, func(pid int) {
		introduced = c.introduceWith(ctx, pid)
	})
	if err = errors.Join(err, introduced); err != nil {
		return err
	}
	w.Process = p
	return nil
}

// LaunchWorker is RestartWorker for a worker that does not become ready now, for
// which it does not wait.
func (c *Cluster) LaunchWorker(ctx context.Context, w *Worker) error {
	if w.Running() {
		return fmt.Errorf("launch %s: it still runs", w.Name)
	}
	var introduced error
	command := w.command
	command.Started = func(pid int) { introduced = c.introduceWith(ctx, pid) }
	p, err := launch(c.cfg.Dir, command)
	if err != nil {
		return fmt.Errorf("launch %s: %w", w.Name, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all, w.Process = append(c.all, p), p
	return introduced
}

// RestartControl starts a control-plane replica that has ended once more.
func (c *Cluster) RestartControl(ctx context.Context, cp *Control) error {
	p, err := c.restart(ctx, cp.Process, nil)
	if err == nil {
		cp.Process = p
	}
	return err
}

// RestartEtcd starts an etcd member that has ended once more, on its data.
func (c *Cluster) RestartEtcd(ctx context.Context, member int) error {
	p, err := c.restart(ctx, c.Etcd[member], nil)
	if err == nil {
		c.Etcd[member] = p
	}
	return err
}

// Blackout kills all control planes, and then the etcd members.
func (c *Cluster) Blackout() {
	for _, cp := range c.Control {
		cp.Kill()
	}
	for _, member := range c.Etcd {
		member.Kill()
	}
}

// EndBlackout starts again, on their data and at their addresses, the etcd members
// and then the control planes that do not run. It returns when all are ready.
func (c *Cluster) EndBlackout(ctx context.Context) error {
	_, err := parallel(len(c.Etcd), func(i int) (struct{}, error) {
		if c.Etcd[i].Running() {
			return struct{}{}, nil
		}
		return struct{}{}, c.RestartEtcd(ctx, i)
	})
	if err != nil {
		return err
	}
	_, err = parallel(len(c.Control), func(i int) (struct{}, error) {
		if c.Control[i].Running() {
			return struct{}{}, nil
		}
		return struct{}{}, c.RestartControl(ctx, c.Control[i])
	})
	return err
}

// RestartLedger starts a ledger that has ended once more, at the same address
// and with nothing in it.
func (c *Cluster) RestartLedger(ctx context.Context, p *Process) (*Process, error) {
	started, err := c.restart(ctx, p, nil)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	for _, l := range c.ledgers {
		if l.process == p {
			l.process = started
		}
	}
	c.mu.Unlock()
	return started, c.introduce(ctx)
}

// introduceWith tells the ledgers about a worker that is not among Workers yet.
func (c *Cluster) introduceWith(ctx context.Context, pid int) error {
	c.mu.Lock()
	c.extra = append(c.extra, pid)
	c.mu.Unlock()
	return c.introduce(ctx)
}

// workerPIDs are the processes that are workers, or were.
func (c *Cluster) workerPIDs() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	pids := append([]int(nil), c.extra...)
	for _, w := range c.Workers {
		pids = append(pids, w.PID)
	}
	return pids
}

// via returns the address at which one part reaches another.
func (c *Cluster) via(from, to, address string) (string, error) {
	if c.cfg.Via == nil {
		return address, nil
	}
	return c.cfg.Via(from, to, address)
}

// controlFor are the addresses at which a worker reaches the control planes.
func (c *Cluster) controlFor(worker string) ([]string, error) {
	var addresses []string
	for _, cp := range c.Control {
		address, err := c.via(worker, cp.Name, cp.Address)
		if err != nil {
			return nil, err
		}
		addresses = append(addresses, address)
	}
	return addresses, nil
}

// endpointsFor are the URLs at which a control plane reaches the etcd members.
func (c *Cluster) endpointsFor(control string) ([]string, error) {
	var urls []string
	for i, url := range c.endpoints {
		scheme, address, _ := strings.Cut(url, "://")
		address, err := c.via(control, c.Etcd[i].Name, address)
		if err != nil {
			return nil, err
		}
		urls = append(urls, scheme+"://"+address)
	}
	return urls, nil
}

// EtcdURL is the client URL of an etcd member.
func (c *Cluster) EtcdURL(member int) string { return c.endpoints[member] }

// EtcdLeader returns which of Etcd leads the cluster, by asking the others too.
func (c *Cluster) EtcdLeader(ctx context.Context) (int, error) {
	var errs []error
	for i, member := range c.Etcd {
		if !member.Running() {
			continue
		}
		leads, err := c.leads(ctx, c.endpoints[i])
		if err == nil && leads {
			return i, nil
		}
		errs = append(errs, err)
	}
	return 0, fmt.Errorf("no etcd member says that it leads: %w", errors.Join(errs...))
}

// leads reports whether the etcd member at a URL is the leader.
func (c *Cluster) leads(ctx context.Context, url string) (bool, error) {
	var status struct {
		Header struct {
			Member string `json:"member_id"`
		} `json:"header"`
		Leader string `json:"leader"`
	}
	if err := c.askEtcd(ctx, url+"/v3/maintenance/status", "{}", &status); err != nil {
		return false, err
	}
	return status.Leader != "" && status.Leader == status.Header.Member, nil
}
