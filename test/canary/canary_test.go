package canary

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/leasehold/leasehold/test/internal/canary"
	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/poll"
)

// TestASecretIsNowhereButWhereItBelongs gives every place of a secret a value of its
// own, leads a cluster through success and failure, and looks for the values.
func TestASecretIsNowhereButWhereItBelongs(t *testing.T) {
	s := &secrets{}
	certificate, key, clients := certificate(t)
	s.addKey(t, "private key for an upstream", key)
	upstreams := startServers(t, &s.set, clients)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "token"), s.of("file of workers")+"\n")
	write(t, filepath.Join(dir, "odd"), s.of("file of workers that cannot be sent")+"\x01\n")
	marker := "m" + strings.TrimPrefix(canary.New(), "canary")
	t.Setenv("LEASEHOLD_CANARY_MARKER", marker)
	c := cluster.Test(t, cluster.Config{
		EtcdMembers: 1, ControlPlanes: 2, Workers: 3,
		WorkerArgs:  []string{"--log-level", "trace", "--credentials-dir", dir, "--allow-stdio", "--drain-notice", "0s"},
		WorkerEnv:   []string{envName + "=" + s.of("variable of workers")},
		ControlArgs: []string{"--log-level", "trace", "--lease-ttl", "3s"},
	})
	own := filepath.Dir(c.Control[0].Log)
	s.addCluster(t, own, c.CertsDir())
	for name, value := range map[string]string{
		"a name": marker, "what a gateway was": "was-" + marker, "a variable": marker, "a metric": "go_goroutines", "a crash": "SIGABRT: abort",
	} {
		s.set.Add("proof: "+name, value)
	}
	for _, path := range []string{c.Binaries.Leasehold, c.Binaries.Etcd, os.Args[0]} {
		s.set.Add("proof: a program's name", path)
	}
	d := &drive{Cluster: c, t: t, secrets: s, servers: upstreams, marker: marker}
	d.everything(string(certificate), string(key))
	for _, name := range slices.Sorted(maps.Keys(s.values)) {
		if used(name) && !upstreams.was(name) {
			t.Errorf("no upstream and no token endpoint was shown the %s", name)
		}
	}
	for _, id := range upstreams.sessions() {
		s.set.Add("id of an upstream's session", id)
	}
	found := &search{drive: d}
	found.etcd()
	found.files(own, c.CertsDir())
	found.in("what commands print", d.printed.Bytes(), "a name", "")
	var processes []*cluster.Process
	for _, cp := range c.Control {
		found.admin(cp.Name, cp.Admin)
		found.methods(cp.Address)
		processes = append(processes, cp.Process)
	}
	for _, w := range c.Live() {
		found.admin(w.Name, w.Admin)
		processes = append(processes, w.Process)
	}
	found.processes(append(processes, c.Etcd...))
	found.files(own, c.CertsDir()) // what was asked for may be in a log
}

// used reports whether a secret is one that a server has to have seen, or else nothing
// is proved.
func used(name string) bool {
	for _, part := range []string{"root key", "refused", "id of", "cannot be sent", "missing file", "never sent", "for an echo"} {
		if strings.Contains(name, part) {
			return false
		}
	}
	return true
}

// everything does what there is to do.
func (d *drive) everything(certificate, key string) {
	good, bad := d.good(certificate, key), d.bad()
	all := strings.Join(append(slices.Collect(maps.Values(good)), slices.Collect(maps.Values(bad))...), "")
	d.succeed(all, "apply", "--dry-run", "-f", "-")
	d.succeed(strings.ReplaceAll(all, "description: \"", "description: \"was-"), "apply", "-f", "-")
	d.run(strings.ReplaceAll(all, "value: \"", "value: \""+d.secrets.of("value that is never sent")), "diff", "-f", "-")
	d.succeed(all, "apply", "-f", "-")
	for _, text := range d.refused() {
		d.fail(text, "apply", "-f", "-")
		d.fail(text, "apply", "--dry-run", "-f", "-")
		d.run(text, "diff", "-f", "-")
	}
	d.look(good, bad)
	workers := d.Workers
	var group sync.WaitGroup
	for _, w := range workers {
		for short := range bad {
			group.Go(func() { d.knock(short, w) })
		}
	}
	group.Wait()
	d.open("program", workers[1], workers[1])
	for short := range good {
		if short == "program" {
			continue
		}
		d.open(short, workers[0], workers[1])
		d.open(short, workers[2], workers[0])
	}
	// What was read is applied again, with the secrets that are kept.
	kept, err := d.run("", "get", "gateways", "-o", "yaml")
	if err != nil {
		d.t.Error("get gateways: ", err)
	}
	changed := strings.ReplaceAll(kept, "description: "+d.marker, "description: kept-"+d.marker)
	if got := strings.Count(changed, "kept-"); got != len(good)+len(bad)-1 { // the program's has none
		d.t.Errorf("what get prints has %d descriptions, want those of all gateways", got)
	}
	d.succeed(changed, "apply", "-f", "-")
	d.succeed("", "keys", "rotate", "data")
	d.succeed("", "keys", "rotate", "session")
	d.succeed("", "keys", "rotate", "root", "--control", strings.Join(d.ControlAddresses(), ","))
	d.succeed("", "keys", "session")
	d.succeed("", "keys", "root")
	d.abort(workers[0])
	d.succeed("", "drain", "worker", d.id(workers[2]))
	d.stray(workers[1])
	for _, session := range d.opened {
		d.call(session, workers[1], toolCall)
	}
	last := d.opened[len(d.opened)-1]
	d.succeed("", "terminate", "session", cluster.SessionName(d.name(last.short), last.header.Get("Mcp-Session-Id")))
	d.succeed("", "delete", "gateway", d.name("key"))
	delete(good, "key")
	d.look(good, bad)
}

// look has the command line show all that it can.
func (d *drive) look(good, bad map[string]string) {
	d.t.Helper()
	for _, kind := range []string{"gateways", "sessions", "workers"} {
		for _, output := range []string{"table", "name", "yaml", "json"} {
			d.succeed("", "get", kind, "-o", output)
		}
	}
	for _, of := range []map[string]string{good, bad} {
		for short := range of {
			d.succeed("", "describe", "gateway", d.name(short))
			d.run("", "inspect", "gateway", d.name(short))
		}
	}
	for _, output := range []string{"table", "yaml", "json"} {
		d.watch("get", "gateways", "--watch", "-o", output)
	}
}

// abort ends a worker as a crash does, and waits until the others may have its sessions.
func (d *drive) abort(w *cluster.Worker) {
	d.t.Helper()
	if err := w.Signal(syscall.SIGABRT); err != nil {
		d.t.Fatal(err)
	}
	if _, err := w.Wait(limit); err != nil {
		d.t.Fatal(err)
	}
	_, err := poll.Until(d.t.Context(), limit, func(ctx context.Context) error {
		registered, err := d.Registered(ctx)
		if err == nil && len(registered) >= len(d.Workers) {
			err = fmt.Errorf("%d workers are registered", len(registered))
		}
		return err
	})
	if err != nil {
		d.t.Error(err)
	}
}

// id is the id of a worker.
func (d *drive) id(w *cluster.Worker) string {
	d.t.Helper()
	registered, err := d.Registered(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	for _, each := range registered {
		if each.GetListenAddress() == w.Listen {
			return strings.TrimPrefix(each.GetName(), "workers/")
		}
	}
	d.t.Fatalf("%s is not registered", w.Name)
	return ""
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
