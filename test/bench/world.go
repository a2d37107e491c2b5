package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/poll"
)

// The paths.
const (
	pathDirect  = "direct"
	pathProxy   = "proxy"
	pathOwner   = "owner"
	pathForward = "forward"
)

// allPaths are the paths in the order in which they are reported.
var allPaths = []string{pathDirect, pathProxy, pathOwner, pathForward}

// gateway is the gateway's id.
const gateway = "bench"

// world is all the processes of a run, and the clients of each path.
type world struct {
	dir      string
	children []*cluster.Process
	cluster  *cluster.Cluster
	callers  map[string][]*caller
	// gateways are the processes between client and upstream on each path.
	gateways map[string][]*cluster.Process
}

// build starts everything and opens n sessions on each path.
func build(ctx context.Context, n int) (*world, error) {
	dir, err := os.MkdirTemp("", "leasehold-bench-")
	if err != nil {
		return nil, err
	}
	w := &world{dir: dir, callers: map[string][]*caller{}, gateways: map[string][]*cluster.Process{}}
	if err := w.start(ctx, n); err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

// start starts everything.
func (w *world) start(ctx context.Context, n int) error {
	upstream, err := w.child(ctx, childUpstream)
	if err != nil {
		return err
	}
	proxy, err := w.child(ctx, childProxy, "http://"+upstream)
	if err != nil {
		return err
	}
	w.gateways[pathProxy] = w.children[1:2]
	w.cluster, err = cluster.Start(ctx, cluster.Config{Workers: 2, Dir: w.dir})
	if err != nil {
		return err
	}
	workers := w.cluster.Workers
	w.gateways[pathOwner] = []*cluster.Process{workers[0].Process, workers[1].Process}
	w.gateways[pathForward] = w.gateways[pathOwner]
	if err := w.cluster.Apply(ctx, gateway, "http://"+upstream+"/mcp", ""); err != nil {
		return err
	}
	_, err = poll.Until(ctx, 10*time.Second, func(ctx context.Context) error { return w.cluster.Applied(ctx, gateway) })
	if err != nil {
		return err
	}
	owner, front := workers[0].URL(gateway), workers[1].URL(gateway)
	for path, at := range map[string][2]string{
		pathDirect: {"http://" + upstream + "/mcp", "http://" + upstream + "/mcp"},
		pathProxy:  {"http://" + proxy + "/mcp", "http://" + proxy + "/mcp"},
		pathOwner:  {owner, owner}, pathForward: {owner, front},
	} {
		for range n {
			c, err := newCaller(ctx, at[0], at[1])
			if err != nil {
				return fmt.Errorf("open a session on path %s: %w", path, err)
			}
			w.callers[path] = append(w.callers[path], c)
		}
	}
	return w.checkOwners(ctx)
}

// child starts this program again, as a child, and returns its address.
func (w *world) child(ctx context.Context, args ...string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	p, err := cluster.Run(ctx, w.dir, cluster.Command{Name: args[0], Path: self, Args: args})
	if err != nil {
		return "", err
	}
	w.children = append(w.children, p)
	_, address, _ := strings.Cut(p.ReadyLine, " ")
	return address, nil
}

// checkOwners checks that the worker that shall own the sessions does.
func (w *world) checkOwners(ctx context.Context) error {
	sessions, err := w.cluster.Sessions(ctx, gateway)
	if err != nil {
		return err
	}
	if want := len(w.callers[pathOwner]) + len(w.callers[pathForward]); len(sessions) != want {
		return fmt.Errorf("there are %d sessions, want %d", len(sessions), want)
	}
	for _, s := range sessions {
		owner, err := w.cluster.Owner(ctx, s)
		if err != nil {
			return err
		}
		if owner != w.cluster.Workers[0] {
			return fmt.Errorf("session %s belongs to %s, not to the worker that opened it", s.GetName(), owner.Name)
		}
	}
	return nil
}

// close ends everything.
func (w *world) close() {
	if w.cluster != nil {
		w.cluster.Close()
	}
	for _, p := range w.children {
		p.Kill()
	}
	os.RemoveAll(w.dir)
}

// measure measures one path.
func (w *world) measure(ctx context.Context, s settings, path string, n int) (measurement, error) {
	if err := ctx.Err(); err != nil {
		return measurement{}, err
	}
	callers := w.callers[path][:n]
	for _, c := range callers {
		if err := c.connect(); err != nil {
			return measurement{}, err
		}
		defer c.disconnect()
	}
	if _, err := drive(callers, s.warmup); err != nil {
		return measurement{}, err
	}
	stop, err := w.profile(s, path, n)
	if err != nil {
		return measurement{}, err
	}
	before, err := cpuTime(w.gateways[path])
	if err != nil {
		return measurement{}, err
	}
	took, err := drive(callers, s.duration)
	if err != nil {
		return measurement{}, err
	}
	after, err := cpuTime(w.gateways[path])
	if err != nil {
		return measurement{}, err
	}
	stop()
	var all []time.Duration
	for _, c := range callers {
		all = append(all, c.latencies...)
	}
	slices.Sort(all)
	calls := float64(len(all))
	return measurement{
		Calls:          len(all),
		CallsPerSecond: calls / took.Seconds(),
		P50:            milliseconds(all[len(all)/2]),
		P99:            milliseconds(all[len(all)*99/100]),
		CPUPer1000:     milliseconds(after-before) / calls * 1000,
	}, nil
}

// milliseconds turns a duration into a number.
func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// tick is the unit of the CPU times in /proc, on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// cpuTime is the CPU time that processes have used, in user and kernel mode.
func cpuTime(processes []*cluster.Process) (time.Duration, error) {
	var sum time.Duration
	for _, p := range processes {
		stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.PID), "stat"))
		if err != nil {
			return 0, fmt.Errorf("read CPU time of %s: %w", p.Name, err)
		}
		// The name, in parentheses, may have spaces in it; utime and stime are the
		// 12th and 13th field after it.
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) < 13 {
			return 0, fmt.Errorf("read CPU time of %s: %q", p.Name, stat)
		}
		for _, field := range fields[11:13] {
			ticks, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read CPU time of %s: %w", p.Name, err)
			}
			sum += time.Duration(ticks) * tick
		}
	}
	return sum, nil
}

// profile starts a CPU profile of the gateway processes of a path, if that is
// wanted, and returns what ends it.
func (w *world) profile(s settings, path string, n int) (func(), error) {
	if s.profiles == "" {
		return func() {}, nil
	}
	if err := os.MkdirAll(s.profiles, 0o755); err != nil {
		return nil, err
	}
	var running []*exec.Cmd
	for _, p := range w.gateways[path] {
		file := filepath.Join(s.profiles, fmt.Sprintf("%s-%d-%s.perf", path, n, p.Name))
		cmd := exec.Command("perf", "record", "-q", "-F", "997", "-g", "-p", strconv.Itoa(p.PID), "-o", file)
		if err := cmd.Start(); err != nil {
			return nil, fmt.Errorf("profile %s: %w", p.Name, err)
		}
		running = append(running, cmd)
	}
	return func() {
		for _, cmd := range running {
			cmd.Process.Signal(os.Interrupt)
			cmd.Wait()
		}
	}, nil
}
