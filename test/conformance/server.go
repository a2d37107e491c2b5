package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/npm"
	"github.com/leasehold/leasehold/test/internal/poll"
)

// Programs of other projects, of the versions that go.mod names.
const (
	goSDKServer = "github.com/modelcontextprotocol/go-sdk/conformance/everything-server"
	goSDKClient = "github.com/modelcontextprotocol/go-sdk/conformance/everything-client"
	mcpGoServer = "github.com/mark3labs/mcp-go/examples/conformance"
)

// server is a server that the suites or the probes run against.
type server struct {
	// name names it in the files of this directory.
	name string
	// build makes its program as the file out; nil for what npm installs.
	build func(ctx context.Context, out string) error
	// command starts the program at a port of the loopback interface.
	command func(program string, port int) cluster.Command
	// slow are the params of a call of one of its tools that says something before
	// it is done.
	slow string
}

// progress calls the suites' tool that reports progress.
const progress = `{"name":"test_tool_with_progress","arguments":{},"_meta":{"progressToken":"p"}}`

// The servers. All serve at /mcp and have sessions.
var (
	goSDK = server{"go-sdk", goBuild(goSDKServer), goSDKCommand, progress}
	// goSDKEvents is the same server with a store of events: it primes its streams,
	// numbers events, says when to come back, and sends again what was missed.
	goSDKEvents = server{"go-sdk-events", buildWithEvents, goSDKCommand, progress}
	mcpGo       = server{"mcp-go", goBuild(mcpGoServer), func(program string, port int) cluster.Command {
		return cluster.Command{
			Path: "sh", Args: []string{"-c", `exec "$0" 2>&1`, program},
			Env:   []string{fmt.Sprintf("CONFORMANCE_ADDR=127.0.0.1:%d", port)},
			Ready: regexp.MustCompile(`listening on`),
		}
	}, progress}
	typeScript = server{"typescript", nil, func(_ string, port int) cluster.Command {
		return node("@modelcontextprotocol/sdk/dist/esm/examples/server/simpleStreamableHttp.js", fmt.Sprintf("MCP_PORT=%d", port))
	}, `{"name":"start-notification-stream","arguments":{"interval":50,"count":3}}`}
	everything = server{"server-everything", nil, func(_ string, port int) cluster.Command {
		return node("@modelcontextprotocol/server-everything/dist/index.js streamableHttp", fmt.Sprintf("PORT=%d", port))
	}, `{"name":"trigger-long-running-operation","arguments":{"duration":0.2,"steps":3},"_meta":{"progressToken":"p"}}`}
)

// servers are those that the suites run against.
var servers = []server{goSDK, goSDKEvents, everything}

// goSDKCommand starts go-sdk's server with sessions.
func goSDKCommand(program string, port int) cluster.Command {
	return cluster.Command{
		Path:  "sh",
		Args:  []string{"-c", `exec "$0" -http="$1" -stateless=false 2>&1`, program, fmt.Sprintf("127.0.0.1:%d", port)},
		Ready: regexp.MustCompile(`listening at`),
	}
}

// node starts a script of the npm packages.
func node(script, env string) cluster.Command {
	return cluster.Command{
		Path: "sh", Args: []string{"-c", "exec node node_modules/" + script + " 2>&1"}, Dir: suiteDir,
		Env: []string{env}, Ready: regexp.MustCompile(`listening on port`),
	}
}

// goBuild builds a package.
func goBuild(pkg string) func(ctx context.Context, out string) error {
	return func(ctx context.Context, out string) error {
		if text, err := exec.CommandContext(ctx, "go", "build", "-o", out, pkg).CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w\n%s", pkg, err, text)
		}
		return nil
	}
}

// buildWithEvents builds go-sdk's server from its source with one option more.
func buildWithEvents(ctx context.Context, out string) error {
	dir, err := exec.CommandContext(ctx, "go", "list", "-f", "{{.Dir}}", goSDKServer).Output()
	if err != nil {
		return fmt.Errorf("find %s: %w", goSDKServer, err)
	}
	source, err := os.ReadFile(filepath.Join(string(bytes.TrimSpace(dir)), "main.go"))
	if err != nil {
		return fmt.Errorf("read %s: %w", goSDKServer, err)
	}
	options := []byte("mcp.StreamableHTTPOptions{")
	if bytes.Count(source, options) != 1 {
		return fmt.Errorf("%s has %d times %s, want 1", goSDKServer, bytes.Count(source, options), options)
	}
	patched := out + ".go"
	source = bytes.Replace(source, options, append(options, "EventStore: mcp.NewMemoryEventStore(nil), "...), 1)
	if err := os.WriteFile(patched, source, 0o644); err != nil {
		return fmt.Errorf("write %s: %w", patched, err)
	}
	return goBuild(patched)(ctx, out)
}

// prepare installs the npm packages and builds servers into dir. It returns the
// servers' programs by name.
func prepare(ctx context.Context, dir string, servers ...server) (map[string]string, error) {
	programs := map[string]string{}
	errs := make([]error, len(servers)+1)
	var group sync.WaitGroup
	group.Go(func() { errs[len(servers)] = npm.Install(ctx, suiteDir) })
	for i, s := range servers {
		program := filepath.Join(dir, s.name)
		programs[s.name] = program
		if s.build != nil {
			group.Go(func() { errs[i] = s.build(ctx, program) })
		}
	}
	group.Wait()
	return programs, errors.Join(errs...)
}

// start starts the server as a process of its own, whose output goes to dir, and
// returns where it serves. The caller kills the process.
func (s server) start(ctx context.Context, program, dir, name string) (string, *cluster.Process, error) {
	port, err := cluster.FreePort()
	if err != nil {
		return "", nil, err
	}
	command := s.command(program, port)
	command.Name = name
	p, err := cluster.Run(ctx, dir, command)
	if err != nil {
		return "", nil, err
	}
	// It says that it listens just before it does.
	address := fmt.Sprintf("127.0.0.1:%d", port)
	_, err = poll.Until(ctx, 10*time.Second, func(context.Context) error {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err
	})
	if err != nil {
		p.Kill()
		return "", nil, fmt.Errorf("%w; its output:\n%s", err, p.Output())
	}
	return address, p, nil
}
