package pairs

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/poll"
)

// call is a call of a tool, and what its result has to contain.
type call struct {
	tool string
	args map[string]any
	want string
}

// profile says what a server offers.
type profile struct {
	title                  string // its name in initialize
	tool, prompt, resource string // among those that it lists
	plain                  call
	progress               call
	steps                  int // that progress reports
	sampling, elicitation  call
	uri                    string // of a resource that touch updates
	touch                  call
	long                   call              // says something at once, and then goes on until it is cancelled
	cancelled              call              // says how many calls were cancelled; "" if the server cannot
	slow                   call              // says something at once, and has its result half a second later
	slower                 call              // the same, but two seconds later
	stateful               string            // a tool that says in what state the session is, and changes it
	states                 [2]*regexp.Regexp // what it says at first, and then; with the session's id
	// forgetsListeners says that the server sends nothing new on a stream that came
	// back with an event id: its store of events confuses the streams.
	forgetsListeners bool
}

// counterpart is a server of some library.
type counterpart struct {
	name string
	// start starts it and returns how to reach it.
	start func(t *testing.T) target
	profile
}

// The tools of the servers of this package.
const (
	toolPlain     = "plain"
	toolProgress  = "progress"
	toolSampling  = "sampling"
	toolElicit    = "elicit"
	toolTouch     = "touch"
	toolLong      = "long"
	toolCancelled = "cancelled"
	toolSlow      = "slow"
	toolSlower    = "slower"
	toolCount     = "count"
	note          = "test://note"
)

// What only the server of go-sdk has besides.
const (
	toolGrow = "grow" // adds a tool, and returns its name
	toolLog  = "log"  // logs quiet as information and loud as a warning
	quiet    = "quiet"
	loud     = "loud"
	ownNote  = "test://go-sdk"
)

// How long the slow tools take.
const (
	slowness      = 500 * time.Millisecond
	greatSlowness = 2 * time.Second
)

// ours is what the servers of this package offer.
func ours(name string) profile {
	return profile{
		title: name, tool: toolPlain, prompt: "greet", resource: note,
		plain:       call{tool: toolPlain, args: map[string]any{"text": "grüße, 世界"}, want: "grüße, 世界"},
		progress:    call{tool: toolProgress, want: "all reported"},
		steps:       5,
		sampling:    call{tool: toolSampling, want: "sampled by pairs"},
		elicitation: call{tool: toolElicit, want: "Ada"},
		uri:         note,
		touch:       call{tool: toolTouch, want: "touched"},
		long:        call{tool: toolLong},
		cancelled:   call{tool: toolCancelled, want: "cancelled: 1"},
		slow:        call{tool: toolSlow, want: "slow is done"},
		slower:      call{tool: toolSlower, want: "slow is done"},
		stateful:    toolCount,
		states:      [2]*regexp.Regexp{regexp.MustCompile(`^count 1 of (\S+)$`), regexp.MustCompile(`^count 2 of (\S+)$`)},
	}
}

// everythings is what server-everything offers.
var everythings = profile{
	title: "mcp-servers/everything", tool: "get-sum", prompt: "simple-prompt",
	resource:         "demo://resource/static/document/architecture.md",
	plain:            call{"echo", map[string]any{"message": "grüße, 世界"}, "grüße, 世界"},
	progress:         call{"trigger-long-running-operation", map[string]any{"duration": 0.5, "steps": 5}, "completed"},
	steps:            5,
	sampling:         call{"trigger-sampling-request", map[string]any{"prompt": "p", "maxTokens": 7}, "sampled by pairs"},
	elicitation:      call{"trigger-elicitation-request", nil, "Ada"},
	uri:              "demo://resource/dynamic/text/1",
	touch:            call{"toggle-subscriber-updates", nil, "Started"},
	long:             call{"trigger-long-running-operation", map[string]any{"duration": 5, "steps": 50}, ""},
	slow:             call{"trigger-long-running-operation", map[string]any{"duration": 0.6, "steps": 6}, "completed"},
	slower:           call{"trigger-long-running-operation", map[string]any{"duration": 2, "steps": 20}, "completed"},
	stateful:         "toggle-subscriber-updates",
	forgetsListeners: true,
	states: [2]*regexp.Regexp{
		regexp.MustCompile(`^Started simulated resource updated notifications for session (\S+) at`),
		regexp.MustCompile(`^Stopped simulated resource updates for session (\S+)$`),
	},
}

// servers are all servers.
var servers = []counterpart{
	{"everything", startEverything("streamableHttp", "/mcp", "http", `listening on port`), everythings},
	{"everything-sse", startEverything("sse", "/sse", "sse", `running on port`), everythings},
	{"everything-stdio", everythingStdio, everythings},
	{"go-sdk", startOurs("go-sdk"), ours("go-sdk")},
	{"mcp-go", startOurs("mcp-go"), ours("mcp-go")},
}

// everythingScript is server-everything.
func everythingScript(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(packagesDir, "node_modules/@modelcontextprotocol/server-everything/dist/index.js"))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// everythingStdio has server-everything started by whoever uses it.
func everythingStdio(t *testing.T) target {
	t.Helper()
	return target{Kind: "stdio", Command: "node", Args: []string{everythingScript(t), "stdio"}}
}

// startEverything starts server-everything over HTTP.
func startEverything(how, path, kind, ready string) func(t *testing.T) target {
	return func(t *testing.T) target {
		t.Helper()
		port, err := cluster.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		p, err := cluster.Run(t.Context(), t.TempDir(), cluster.Command{
			Name: "everything", Path: "sh",
			Args:  []string{"-c", `exec node "$0" "$1" 2>&1`, everythingScript(t), how},
			Env:   []string{fmt.Sprintf("PORT=%d", port)},
			Ready: regexp.MustCompile(ready),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Kill)
		address := fmt.Sprintf("127.0.0.1:%d", port)
		// It says that it listens just before it does.
		eventually(t, 10*time.Second, func(context.Context) error {
			conn, err := net.Dial("tcp", address)
			if err == nil {
				conn.Close()
			}
			return err
		})
		return target{Kind: kind, URL: "http://" + address + path}
	}
}

// serverEnv tells the test's binary that it is a server, and which.
const serverEnv = "LEASEHOLD_PAIRS_SERVER"

// startOurs starts a server of this package as a process of its own.
func startOurs(name string) func(t *testing.T) target {
	return func(t *testing.T) target {
		t.Helper()
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		p, err := cluster.Run(t.Context(), t.TempDir(), cluster.Command{
			Name: name, Path: self, Env: []string{serverEnv + "=" + name}, Ready: regexp.MustCompile(`^ready `),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			p.Kill()
			if fault := p.Fault(); fault != "" {
				t.Error(fault)
			}
		})
		return target{Kind: "http", URL: strings.TrimPrefix(p.ReadyLine, "ready ")}
	}
}

// serve is what a server's process does. It returns if that fails.
func serve(name string) error {
	handlers := map[string]func() http.Handler{"go-sdk": goSDKHandler, "mcp-go": mcpGoHandler}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("ready http://%s/mcp\n", listener.Addr())
	s := &http.Server{ReadHeaderTimeout: time.Minute, Handler: handlers[name]()}
	return s.Serve(listener)
}

// address is the host and port of a target.
func (to target) address() string {
	host, _, _ := strings.Cut(strings.TrimPrefix(to.URL, "http://"), "/")
	return host
}

// by is the target, reached by way of a front.
func (to target) by(f *front) target {
	to.URL = f.URL + strings.TrimPrefix(to.URL, "http://"+to.address())
	return to
}

// upstream is how a gateway's definition says where the target is.
func (to target) upstream() string {
	switch to.Kind {
	case "http":
		return fmt.Sprintf("transport: STREAMABLE_HTTP, url: %q", to.URL)
	case "sse":
		return fmt.Sprintf("transport: SSE, url: %q", to.URL)
	default:
		return fmt.Sprintf("transport: STDIO, command: %s, args: [%q, %s]", to.Command, to.Args[0], to.Args[1])
	}
}

// eventually waits for something that another process brings about.
func eventually(t *testing.T, limit time.Duration, check func(context.Context) error) {
	t.Helper()
	if _, err := poll.Until(t.Context(), limit, check); err != nil {
		t.Fatal(err)
	}
}
