package conformance

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/npm"
)

// The server that the suites run against refuses foreign hosts too, so that a
// worker which passed such a request on would look as if it had refused it. This
// upstream refuses nothing and counts.
func hostProtection(t *testing.T, c *cluster.Cluster) {
	var reached atomic.Int64
	upstream := target(t, func(w http.ResponseWriter, _ *http.Request) {
		reached.Add(1)
		w.WriteHeader(http.StatusTeapot)
	})
	c.Publish(t, "merits", "http://"+upstream+"/mcp", "")
	client := browser(t)
	for _, w := range c.Workers {
		for name, test := range map[string]struct {
			host, origin string
			admitted     bool
		}{
			"its own host":   {w.Listen, "", true},
			"its own origin": {w.Listen, "http://" + w.Listen, true},
			"foreign host":   {"evil.example.com", "", false},
			"foreign origin": {w.Listen, "http://evil.example.com", false},
			"both":           {"evil.example.com", "http://evil.example.com", false},
			"no web origin":  {w.Listen, "null", false},
		} {
			before := reached.Load()
			status := initialize(t, client, w.URL("merits"), test.host, test.origin)
			refused := status == http.StatusForbidden && reached.Load() == before
			if admitted := reached.Load() > before; admitted != test.admitted || !admitted && !refused {
				t.Errorf("%s, %s: status %d, the upstream was asked: %v; want it to be: %v", w.Name, name, status, admitted, test.admitted)
			}
		}
	}
}

// initialize asks for a session and returns the status.
func initialize(t *testing.T, client *http.Client, url, host, origin string) int {
	t.Helper()
	const body = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},` +
		`"clientInfo":{"name":"merits","version":"1"}}}`
	req, err := http.NewRequest("POST", url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = host
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	if origin != "" {
		req.Header.Set("Origin", origin)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(fmt.Errorf("initialize: %w", err))
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func TestLockFileNamesNoHost(t *testing.T) {
	if err := npm.CheckLock(suiteDir); err != nil {
		t.Error(err)
	}
}
