// Package stdio runs MCP servers that are programs, one process for each client
// session, and speaks to them over their standard input and output: a message is a
// line.
//
// A process leads a process group of its own, and its end is the end of the group:
// whatever the program started goes with it. On Linux the process is killed when
// the worker dies, however that dies; what it started has its standard input
// closed then.
package stdio

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/duplex"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

// DefaultMax is how many processes run at the same time at most by default.
const DefaultMax = 256

// inherited are the variables that a program has from the worker. Others of the
// worker's may be secrets.
var inherited = [...]string{"PATH", "HOME", "USER", "LANG", "TMPDIR", "TZ"}

// Config says whether and how programs are run.
type Config struct {
	// Allow lets programs run at all.
	Allow bool
	// Max bounds the processes; 0 means DefaultMax.
	Max int
	// Memory bounds the memory of each process in bytes; 0 means no bound.
	Memory int64
	Logger hclog.Logger
}

// Host runs programs. It implements duplex.Opener, and is safe for concurrent use.
type Host struct {
	cfg   Config
	hurry chan struct{} // closed when the worker stops
	grace time.Duration // what a program has for each step of its end

	mu      sync.Mutex // guards running
	running int
}

// NewHost returns a host that runs nothing yet. It fails if this system cannot
// keep what cfg asks for.
func NewHost(cfg Config) (*Host, error) {
	if cfg.Memory > 0 && !canLimit {
		return nil, errors.New("worker config: ProgramMemory: cannot be bounded on this system")
	}
	if cfg.Max == 0 {
		cfg.Max = DefaultMax
	}
	return &Host{cfg: cfg, hurry: make(chan struct{}), grace: grace}, nil
}

// Run makes ends under way quick once ctx ends.
func (h *Host) Run(ctx context.Context) error {
	<-ctx.Done()
	close(h.hurry)
	return nil
}

// Running returns how many processes there are.
func (h *Host) Running() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.running
}

// Open implements duplex.Opener: it starts the upstream's program.
func (h *Host) Open(ctx context.Context, d *session.Dispatch) (duplex.Channel, error) {
	if !h.cfg.Allow {
		return nil, duplex.Refuse(d, http.StatusBadGateway, mcp.CodeUpstream, fmt.Sprintf(
			"upstream %q: this worker does not run programs: start it with --allow-stdio", d.Upstream.Name))
	}
	if !h.reserve() {
		refused := duplex.Refuse(d, http.StatusServiceUnavailable, mcp.CodeUnavailable, fmt.Sprintf(
			"upstream %q: this worker runs %d programs, which is its bound", d.Upstream.Name, h.cfg.Max))
		refused.Answer.Header.Set("Retry-After", "1")
		return nil, refused
	}
	p, err := h.start(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", session.ErrNotSent, err)
	}
	return p, nil
}

// start starts a program in a place that was reserved, which it gives back when it
// fails.
func (h *Host) start(ctx context.Context, d *session.Dispatch) (*program, error) {
	cmd, err := command(d.Upstream.Program)
	if err == nil {
		err = context.Cause(ctx)
	}
	if err == nil && d.Gate != nil {
		err = d.Gate.Pass()
	}
	if err != nil {
		h.release()
		return nil, err
	}
	return newProgram(h, cmd, h.cfg.Logger.With("upstream", d.Upstream.Name, "program", d.Upstream.Program.Command))
}

func (h *Host) reserve() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.running >= h.cfg.Max {
		return false
	}
	h.running++
	return true
}

func (h *Host) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.running--
}

func command(p *config.Program) (*exec.Cmd, error) {
	path, err := exec.LookPath(p.Command)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, p.Args...)
	cmd.Env = environment(p.Env)
	cmd.SysProcAttr = attributes()
	return cmd, nil
}

// environment is what a program's definition says, and what it inherits.
func environment(own map[string]string) []string {
	all := make(map[string]string, len(own)+len(inherited))
	for _, name := range inherited {
		if value, ok := os.LookupEnv(name); ok {
			all[name] = value
		}
	}
	maps.Copy(all, own)
	list := make([]string, 0, len(all))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		list = append(list, name+"="+all[name])
	}
	return list
}
