package conformance

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

// side is one way to a server: it opens a way for one run of a suite. The caller
// closes it with done, which says whether the way was as it should be.
type side func() (url string, done func() error, err error)

// TestSuitesGiveTheSameThroughTwoWorkersAsDirectly runs every suite against each
// server itself and through two workers, request by request in turn, and compares
// check by check.
func TestSuitesGiveTheSameThroughTwoWorkersAsDirectly(t *testing.T) {
	known, least := lists(t)
	w := start(t, servers...)
	t.Run("workers refuse foreign hosts and origins themselves", func(t *testing.T) { hostProtection(t, w.cluster) })
	dir := t.TempDir()
	deadline := time.Now().Add(suitesLimit + repeatLimit)
	for _, server := range servers {
		t.Run(server.name, func(t *testing.T) {
			sides := w.sides(t, server)
			first := runSuites(t, server, sides, filepath.Join(dir, server.name))
			for i, s := range suites {
				t.Run(s.name, func(t *testing.T) {
					c := comparison{pairing: pairing{server.name, s.name}, dir: filepath.Join(dir, server.name, fmt.Sprint("again", i)), deadline: deadline}
					c.once = func(ctx context.Context, j int, scenario, dir string) ([]check, error) {
						url, done, err := sides[j]()
						if err != nil {
							return nil, err
						}
						defer done() // a single scenario may have a single request
						return s.runOne(ctx, url, dir, scenario)
					}
					for j, r := range [2]ran{first[0][i], first[1][i]} {
						if r.err != nil {
							t.Errorf("%s: %v", sideNames[j], r.err)
						}
						if len(r.results) == 0 {
							t.FailNow()
						}
						c.add(j, r.results)
					}
					c.run(t, known, least)
				})
			}
		})
	}
}

// world is Leasehold with two workers, and the programs of the servers.
type world struct {
	cluster  *cluster.Cluster
	programs map[string]string
	dir      string
}

// start builds the servers and starts Leasehold.
func start(t *testing.T, servers ...server) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	w := &world{dir: t.TempDir()}
	prepared := make(chan error, 1)
	go func() {
		var err error
		w.programs, err = prepare(ctx, w.dir, servers...)
		prepared <- err
	}()
	w.cluster = cluster.Test(t, cluster.Config{Workers: 2, Race: true})
	if err := <-prepared; err != nil {
		t.Fatal(err)
	}
	return w
}

// serve starts a server and returns where it serves.
func (w *world) serve(t *testing.T, s server, name string) string {
	t.Helper()
	address, p, err := s.start(t.Context(), w.programs[s.name], w.dir, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return address
}

// workers are the addresses of the workers.
func (w *world) workers() []string {
	var all []string
	for _, worker := range w.cluster.Workers {
		all = append(all, worker.Listen)
	}
	return all
}

// sides starts a server for each side, so that the sessions of one do not make
// the other slow, and returns the direct way and the way through Leasehold.
func (w *world) sides(t *testing.T, s server) [2]side {
	t.Helper()
	direct := "http://" + w.serve(t, s, s.name+"-direct") + "/mcp"
	w.cluster.Publish(t, s.name, "http://"+w.serve(t, s, s.name+"-behind")+"/mcp", "")
	return [2]side{
		func() (string, func() error, error) { return direct, func() error { return nil }, nil },
		func() (string, func() error, error) {
			f, err := startFront(w.workers()...)
			if err != nil {
				return "", nil, err
			}
			return f.URL + "/gateways/" + s.name + "/mcp", func() error { f.Close(); return f.check() }, nil
		},
	}
}

// ran is what came of a suite.
type ran struct {
	results results
	err     error
}

// runSuites runs all suites on both sides, side by side.
func runSuites(t *testing.T, server server, sides [2]side, dir string) [2][]ran {
	t.Helper()
	var all [2][]ran
	var group sync.WaitGroup
	for j, side := range sides {
		all[j] = make([]ran, len(suites))
		group.Go(func() {
			for i := range suites {
				start := time.Now()
				r := &all[j][i]
				r.results, r.err = runSuite(t.Context(), &suites[i], side, filepath.Join(dir, fmt.Sprint(j, "-", i)))
				checks := 0
				for _, c := range r.results {
					checks += len(c)
				}
				t.Logf("%s %s %s: %d checks of %d scenarios in %v", server.name, suites[i].name, sideNames[j], checks, len(r.results),
					time.Since(start).Round(10*time.Millisecond))
			}
		})
	}
	group.Wait()
	return all
}

// runSuite runs all scenarios of a suite on one side.
func runSuite(ctx context.Context, s *suite, side side, dir string) (results, error) {
	url, done, err := side()
	if err != nil {
		return nil, err
	}
	r, err := s.runAll(ctx, url, dir)
	if wrong := done(); wrong != nil && err == nil {
		err = wrong
	}
	return r, err
}

// lists reads the known differences and the baseline.
func lists(t *testing.T) (map[name]string, baseline) {
	t.Helper()
	known, err := parseKnown(read(t, knownFile))
	if err != nil {
		t.Fatal(err)
	}
	least, err := parseBaseline(read(t, baselineFile))
	if err != nil {
		t.Fatal(err)
	}
	return known, least
}

// read returns the text of a file of this directory.
func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(data), "\r\n", "\n")
}
