package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"strings"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/poll"
)

// The paths.
const (
	pathDirect  = "direct"
	pathProxy   = "proxy"
	pathNginx   = "nginx"
	pathOwner   = "owner"
	pathForward = "forward"
)

// allPaths are the paths in the order in which they are reported.
var allPaths = []string{pathDirect, pathProxy, pathNginx, pathOwner, pathForward}

// gateway is the gateway's id.
const gateway = "bench"

// world is all the processes of a run, and the clients of each path.
type world struct {
	dir      string
	children []*cluster.Process
	cluster  *cluster.Cluster
	// opens and calls are where sessions of each path are opened and where
	// they are called.
	opens, calls map[string]string
	callers      map[string][]*caller
	// gateways are the processes between client and upstream on each path.
	gateways map[string][]*cluster.Process
}

// build starts everything and opens n sessions on each path.
func build(ctx context.Context, n int) (*world, error) {
	dir, err := os.MkdirTemp("", "leasehold-bench-")
	if err != nil {
		return nil, err
	}
	w := &world{
		dir: dir, opens: map[string]string{}, calls: map[string]string{},
		callers: map[string][]*caller{}, gateways: map[string][]*cluster.Process{},
	}
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
	nginx, err := w.startNginx(ctx, upstream)
	if err != nil {
		return err
	}
	w.cluster, err = cluster.Start(ctx, cluster.Config{Workers: 2, Plaintext: true, Dir: w.dir})
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
	w.opens = map[string]string{
		pathDirect: "http://" + upstream + "/mcp", pathProxy: "http://" + proxy + "/mcp",
		pathOwner: workers[0].URL(gateway), pathForward: workers[0].URL(gateway),
	}
	if nginx != "" {
		w.opens[pathNginx] = "http://" + nginx + "/mcp"
	}
	w.calls = maps.Clone(w.opens)
	w.calls[pathForward] = workers[1].URL(gateway)
	for path := range w.opens {
		for range n {
			c, err := newCaller(ctx, w.opens[path], w.calls[path])
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

// logs is the end of every process's output.
func (w *world) logs() string {
	logs := w.cluster.Logs()
	for _, p := range w.children {
		out := p.Output()
		logs += fmt.Sprintf("--- %s\n%s\n", p.Name, out[max(0, len(out)-2000):])
	}
	return logs
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
