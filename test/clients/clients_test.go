// Package clients tests the operators' API with clients that are not ours:
// grpcurl, which knows it by reflection, and a generated client of another
// language. They need Node.js and npm.
package clients

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/npm"
)

const (
	js        = "js"
	callLimit = time.Minute
)

func TestMain(m *testing.M) {
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	cluster.RemoveBinaries()
	os.Exit(code)
}

// start starts a small cluster with a session, and returns the session's name.
func start(t *testing.T) (*cluster.Cluster, string) {
	t.Helper()
	c := cluster.Test(t, cluster.Config{Workers: 1, Plaintext: true})
	c.Serve(t, "counter", "")
	s, err := client.Open(t.Context(), c.Workers[0].URL("counter"))
	if err != nil {
		t.Fatal(err)
	}
	return c, cluster.SessionName("counter", s.ID)
}

func TestAGeneratedJavaScriptClientDoesEverything(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	if err := npm.Install(ctx, js); err != nil {
		t.Fatal(err)
	}
	c, session := start(t)
	ctx, cancel = context.WithTimeout(t.Context(), callLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "operator.mjs", c.Control[0].Address, "../../../proto", session)
	cmd.Dir = js
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "all done") {
		t.Errorf("operator.mjs: %v\n%s", err, out)
	}
}

func TestLockFileNamesNoHost(t *testing.T) {
	if err := npm.CheckLock(js); err != nil {
		t.Error(err)
	}
}

// curl is grpcurl, and which RPCs it has called.
type curl struct {
	t      *testing.T
	path   string
	addr   string
	called []string
}

func newCurl(t *testing.T, addr string) *curl {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "tool", "-modfile=scripts/tools/go.mod", "-n", "grpcurl") // builds it, and says where it is
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("build grpcurl: %v", err)
	}
	return &curl{t: t, path: strings.TrimSpace(string(out)), addr: addr}
}

// run runs grpcurl and returns all that it printed.
func (c *curl) run(data string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), callLimit)
	defer cancel()
	all := append([]string{"-plaintext", "-emit-defaults", "-d", data, c.addr}, args...)
	if data == "" {
		all = append([]string{"-plaintext", c.addr}, args...)
	}
	out, err := exec.CommandContext(ctx, c.path, all...).CombinedOutput()
	return string(out), err
}

// call calls an RPC that must succeed and print what is wanted.
func (c *curl) call(method, data string, wants ...string) string {
	c.t.Helper()
	c.called = append(c.called, "leasehold.v1."+strings.ReplaceAll(method, "/", "."))
	out, err := c.run(data, "leasehold.v1."+method)
	if err != nil {
		c.t.Errorf("%s %s: %v\n%s", method, data, err, out)
	}
	for _, want := range wants {
		if !strings.Contains(out, want) {
			c.t.Errorf("%s %s lacks %s:\n%s", method, data, want, out)
		}
	}
	return out
}

// refuse calls an RPC that must fail with a code and details.
func (c *curl) refuse(method, data string, wants ...string) {
	c.t.Helper()
	c.called = append(c.called, "leasehold.v1."+strings.ReplaceAll(method, "/", "."))
	out, err := c.run(data, "leasehold.v1."+method)
	if err == nil {
		c.t.Errorf("%s %s succeeded:\n%s", method, data, out)
	}
	for _, want := range wants {
		if !strings.Contains(out, want) {
			c.t.Errorf("%s %s lacks %s:\n%s", method, data, want, out)
		}
	}
}

// watch reads a stream until it printed what is wanted.
func (c *curl) watch(method, data, want string) {
	c.t.Helper()
	c.called = append(c.called, "leasehold.v1."+strings.ReplaceAll(method, "/", "."))
	ctx, cancel := context.WithTimeout(c.t.Context(), callLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.path, "-plaintext", "-d", data, c.addr, "leasehold.v1."+method)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	found := false
	for lines := bufio.NewScanner(stdout); !found && lines.Scan(); {
		found = strings.Contains(lines.Text(), want)
	}
	cancel()
	_ = cmd.Wait() // it was killed
	if !found {
		c.t.Errorf("%s %s did not print %s: %s", method, data, want, stderr.String())
	}
}

func TestGrpcurlCallsEveryOperatorRPCByReflection(t *testing.T) {
	cl, session := start(t)
	c := newCurl(t, cl.Control[0].Address)
	upstream := `"upstreams":[{"name":"u","url":"http://127.0.0.1:9/mcp"}]`
	c.call("GatewayService/CreateGateway", `{"gateway_id":"b","gateway":{`+upstream+`,"labels":{"team":"search"}}}`, `"gateways/b"`)
	c.call("GatewayService/CreateGateway", `{"gateway_id":"a","gateway":{`+upstream+`,"labels":{"team":"search"}}}`, `"gateways/a"`)
	c.refuse("GatewayService/CreateGateway", `{"gateway_id":"a","gateway":{`+upstream+`}}`, "AlreadyExists", "ErrorInfo")
	c.refuse("GatewayService/CreateGateway", `{"gateway_id":"A","gateway":{"upstreams":[{"name":"u","url":"x"}]}}`,
		"InvalidArgument", "BadRequest", "upstreams[0].url", "ErrorInfo")
	stored := c.call("GatewayService/GetGateway", `{"name":"gateways/a"}`, `"etag"`, `"revision"`, `"workersTotal": 1`)
	etag := between(t, stored, `"etag": "`, `"`)
	page := c.call("GatewayService/ListGateways", `{"page_size":1,"filter":"labels.team = search"}`, `"gateways/a"`)
	if strings.Contains(page, `"gateways/b"`) {
		t.Errorf("a page of one has two gateways:\n%s", page)
	}
	token := between(t, page, `"nextPageToken": "`, `"`)
	c.call("GatewayService/ListGateways", `{"page_size":1,"filter":"labels.team = search","page_token":"`+token+`"}`, `"gateways/b"`)
	update := `{"gateway":{"name":"gateways/a","description":"new","etag":"` + etag + `"},"update_mask":{"paths":["description"]}}`
	c.call("GatewayService/UpdateGateway", update, `"new"`, `"team": "search"`)
	c.refuse("GatewayService/UpdateGateway", update, "Aborted")
	c.refuse("GatewayService/DeleteGateway", `{"name":"gateways/a","etag":"`+etag+`"}`, "Aborted")
	c.call("GatewayService/InspectGateway", `{"name":"gateways/a"}`, "STEP_KIND_CONNECT", `"error"`)
	c.watch("GatewayService/WatchGateways", `{"filter":"labels.team = search"}`, "CHANGE_TYPE_BOOKMARK")
	c.call("GatewayService/DeleteGateway", `{"name":"gateways/a"}`)
	c.refuse("GatewayService/GetGateway", `{"name":"gateways/a"}`, "NotFound", "ErrorInfo")

	worker := between(t, c.call("WorkerService/ListWorkers", `{}`), `"name": "`, `"`)
	c.call("WorkerService/GetWorker", `{"name":"`+worker+`"}`, `"incarnation"`)
	c.watch("WorkerService/WatchWorkers", `{}`, worker)
	c.call("WorkerService/DrainWorker", `{"name":"`+worker+`"}`, "WORKER_STATE_DRAINING")
	c.call("WorkerService/UndrainWorker", `{"name":"`+worker+`"}`, "WORKER_STATE_SERVING")
	c.refuse("WorkerService/ForgetWorker", `{"name":"`+worker+`"}`, "FailedPrecondition", "ALIVE")

	c.call("SessionService/ListSessions", `{"parent":"gateways/counter","filter":"class = CLASS_RESUMABLE AND owner = `+worker+`","show_activity":true}`, session, `"callsInFlight"`)
	c.call("SessionService/GetSession", `{"name":"`+session+`"}`, `"activity"`, "SESSION_EVENT_TYPE_OPENED")
	c.watch("SessionService/WatchSessions", `{}`, session)
	c.call("SessionService/MoveSession", `{"name":"`+session+`","worker":"`+worker+`"}`, session)
	c.call("SessionService/TerminateSession", `{"name":"`+session+`"}`, "END_REASON_TERMINATED")

	c.call("KeyService/GetSessionKeys", `{}`, "SESSION_KEY_STATE_SEALING")
	c.call("KeyService/RotateSessionKey", `{}`, "SESSION_KEY_STATE_")
	rootKey := between(t, c.call("KeyService/GetRootKeys", `{}`), `"id": "`, `"`)
	c.call("KeyService/RotateDataKeys", `{}`)
	c.call("KeyService/RotateRootKey", `{"root_key":"`+rootKey+`"}`)

	var missing []string
	for _, service := range []string{"GatewayService", "SessionService", "WorkerService", "KeyService"} {
		out, err := c.run("", "list", "leasehold.v1."+service)
		if err != nil {
			t.Fatalf("list %s: %v\n%s", service, err, out)
		}
		for method := range strings.FieldsSeq(out) {
			if !slices.Contains(c.called, method) {
				missing = append(missing, method)
			}
		}
	}
	if len(missing) > 0 {
		t.Errorf("not called: %q", missing)
	}
}

// between returns what stands in text after before and up to after.
func between(t *testing.T, text, before, after string) string {
	t.Helper()
	_, rest, ok := strings.Cut(text, before)
	found, _, more := strings.Cut(rest, after)
	if !ok || !more || found == "" {
		t.Fatal(fmt.Errorf("no %s…%s in\n%s", before, after, text))
	}
	return found
}
