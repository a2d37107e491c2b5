// Package deploy tests what is in deploy/local: the script that starts a whole
// Leasehold, and the load balancers' configurations, with the load balancers
// themselves in front of real workers.
//
// Both are installed with apt-get where they are missing and the tests run as
// root; elsewhere the tests say what to install.
package deploy

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/ledger"
	"github.com/leasehold/leasehold/test/internal/poll"
)

const (
	local   = "../../deploy/local"
	workers = 3
	// ttl is the lease of a worker: a short one, for the tests wait for its end.
	ttl = "3s"
)

func TestMain(m *testing.M) {
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	cluster.RemoveBinaries()
	os.Exit(code)
}

// world is what up.sh started, and an upstream behind gateways/counter.
type world struct {
	t       *testing.T
	dir     string
	bin     string
	ports   map[string]int // by the variable of up.sh
	script  *cluster.Process
	pids    map[string]int // by name
	ledger  ledger.Remote
	control string
}

// up runs up.sh with ports of its own.
func up(t *testing.T) *world {
	t.Helper()
	bin, err := cluster.Program("cmd/leasehold", true)
	if err != nil {
		t.Fatal(err)
	}
	first, err := cluster.FreePorts(16)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: t.TempDir(), bin: bin, ports: map[string]int{
		"WORKER_PORT": first, "ADMIN_PORT": first + 3, "CONTROL_PORT": first + 8, "ETCD_PORT": first + 10,
	}}
	env := []string{"BIN=" + bin, "LEASEHOLD_LEASE_TTL=" + ttl}
	for name, port := range w.ports {
		env = append(env, fmt.Sprintf("%s=%d", name, port))
	}
	w.script, err = cluster.Run(t.Context(), t.TempDir(), cluster.Command{
		Name: "up", Path: local + "/up.sh", Args: []string{w.dir}, Env: env, Ready: regexp.MustCompile(`^ready\n`),
	})
	t.Cleanup(w.down)
	if err != nil {
		t.Fatal(err)
	}
	w.readPIDs()
	w.control = fmt.Sprintf("127.0.0.1:%d,127.0.0.1:%d", first+8, first+9)
	return w
}

// down runs down.sh, for whatever the test has left.
func (w *world) down() {
	if out, err := exec.Command(local+"/down.sh", w.dir).CombinedOutput(); err != nil {
		w.t.Errorf("down.sh: %v\n%s", err, out)
	}
	if w.script != nil {
		w.script.Kill()
	}
	if !w.t.Failed() {
		return
	}
	logs, _ := filepath.Glob(w.dir + "/*.log")
	for _, log := range logs {
		if data, err := os.ReadFile(log); err == nil {
			w.t.Logf("%s:\n%.4000s", filepath.Base(log), data)
		}
	}
}

// readPIDs reads which processes there are.
func (w *world) readPIDs() {
	w.t.Helper()
	file, err := os.Open(filepath.Join(w.dir, "pids"))
	if err != nil {
		w.t.Fatal(err)
	}
	defer file.Close()
	w.pids = map[string]int{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		name, text, _ := strings.Cut(lines.Text(), " ")
		if w.pids[name], err = strconv.Atoi(text); err != nil {
			w.t.Fatal(err)
		}
	}
}

// do runs the command line.
func (w *world) do(stdin string, args ...string) string {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), w.bin, args...)
	cmd.Env = append(os.Environ(), "LEASEHOLD_CONTROL="+w.control)
	cmd.Stdin = strings.NewReader(stdin)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		w.t.Fatalf("leasehold %s: %v: %s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

// serve puts an upstream behind gateways/counter.
func (w *world) serve() {
	w.t.Helper()
	program, err := cluster.Program("test/internal/ledgerd", false)
	if err != nil {
		w.t.Fatal(err)
	}
	p, err := cluster.Run(w.t.Context(), w.t.TempDir(), cluster.Command{Name: "ledger", Path: program})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(p.Kill)
	_, base, _ := strings.Cut(p.ReadyLine, " ")
	w.ledger = ledger.Remote{Base: base}
	w.do("{name: counter, upstreams: [{name: u, url: \""+w.ledger.URL()+"\"}]}", "apply", "-f", "-")
	w.eventually(10*time.Second, func(context.Context) error {
		if got := w.do("", "get", "gateway", "counter"); !strings.Contains(got, " 3/3 ") {
			return fmt.Errorf("not every worker has the gateway:\n%s", got)
		}
		return nil
	})
}

func (w *world) eventually(limit time.Duration, check func(context.Context) error) {
	w.t.Helper()
	if _, err := poll.Until(w.t.Context(), limit, check); err != nil {
		w.t.Fatal(err)
	}
}

// running are the names of the processes that run. One that has ended may still
// be listed, as a zombie that its parent has not asked about.
func (w *world) running() []string {
	var names []string
	for name, pid := range w.pids {
		state, err := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
		if err == nil && !strings.HasPrefix(string(state), "Z") {
			names = append(names, name)
		}
	}
	return names
}
