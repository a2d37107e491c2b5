package conformance

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/poll"
)

// TestClientScenariosGiveTheSameThroughTwoWorkersAsDirectly runs go-sdk's client in
// the scenarios in which the suite is the server: connected to it, and through two
// workers, request by request in turn.
func TestClientScenariosGiveTheSameThroughTwoWorkersAsDirectly(t *testing.T) {
	known, least := lists(t)
	w := start(t)
	dir := t.TempDir()
	client := filepath.Join(dir, "client")
	if err := goBuild(goSDKClient)(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	via, err := viaCommand(w.door(t), client)
	if err != nil {
		t.Fatal(err)
	}
	commands := [2]string{client, via}
	deadline := time.Now().Add(suitesLimit + repeatLimit)
	for i, s := range clientSuites {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			c := comparison{pairing: pairing{itself, s.name}, dir: filepath.Join(dir, fmt.Sprint(i)), deadline: deadline}
			c.once = func(ctx context.Context, j int, scenario, dir string) ([]check, error) {
				return s.runClient(ctx, commands[j], dir, scenario)
			}
			var group sync.WaitGroup
			for j := range commands {
				group.Go(func() { c.add(j, runClients(t, c.once, j, s.scenarios, filepath.Join(c.dir, "first"))) })
			}
			group.Wait()
			c.run(t, known, least)
		})
	}
}

// runClients runs scenarios on one side.
func runClients(t *testing.T, once func(context.Context, int, string, string) ([]check, error), j int, scenarios []string, dir string) results {
	t.Helper()
	all := results{}
	for _, scenario := range scenarios {
		start := time.Now()
		checks, err := once(t.Context(), j, scenario, filepath.Join(dir, fmt.Sprint(scenario, j)))
		if err != nil {
			t.Errorf("%s %s: %v", scenario, sideNames[j], err)
		}
		all[scenario] = checks
		t.Logf("%s %s: %d checks in %v", scenario, sideNames[j], len(checks), time.Since(start).Round(10*time.Millisecond))
	}
	return all
}

// door gives each server that it is asked for a gateway, and returns where to ask.
func (w *world) door(t *testing.T) string {
	t.Helper()
	f, err := startFront(w.workers()...)
	if err != nil {
		t.Fatal(err)
	}
	var count atomic.Int64
	door, server, err := startDoor(func(url string) (string, error) {
		gateway := fmt.Sprint("scenario-", count.Add(1))
		if err := w.cluster.Apply(t.Context(), gateway, url, ""); err != nil {
			return "", err
		}
		_, err := poll.Until(t.Context(), 10*time.Second, func(ctx context.Context) error { return w.cluster.Applied(ctx, gateway) })
		return f.URL + "/gateways/" + gateway + "/mcp", err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Close()
		f.Close()
		if err := f.check(); err != nil {
			t.Error(err)
		}
	})
	return door
}
