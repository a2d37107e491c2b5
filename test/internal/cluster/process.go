package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/leasehold/leasehold/test/internal/sockets"
)

// readyLimit is how long a process may take to say that it is ready. Machines
// that build and test at the same time are slow.
const readyLimit = 60 * time.Second

// readyLine is what a line looks like by which a process says that it is ready.
var readyLine = regexp.MustCompile(`\bready\b`)

// Command says how to start a process.
type Command struct {
	// Name names the process and its log file.
	Name string
	// Path is the binary.
	Path string
	// Args are its arguments.
	Args []string
	// Env is added to the environment.
	Env []string
	// Dir is the working directory; empty means the caller's.
	Dir string
	// Ready matches the line of standard output that says that the process is
	// ready; nil means any with the word ready.
	Ready *regexp.Regexp
	// Started, if set, is called with the process id as soon as there is one,
	// before the process is ready.
	Started func(pid int)
}

// Process is a child process. It leads a process group of its own and is killed
// when its parent goes away, for whatever reason. Its output is kept in a file.
type Process struct {
	// Name is the name it was started with.
	Name string
	// PID is its process id.
	PID int
	// Log is the file that has its output.
	Log string
	// ReadyLine is the line by which it said that it is ready.
	ReadyLine string

	command Command

	cmd    *exec.Cmd
	ready  chan string   // gets the ready line; closed with standard output
	exited chan struct{} // closed when the process is gone
	err    error         // why it ended; set before exited is closed
}

// running are the processes that run, by id.
var running struct {
	mu    sync.Mutex // guards names
	names map[int]string
}

// NameOf is the name of the process, one of those that this package started, at the
// other end of a connection which is open; empty if it is none of them.
func NameOf(conn net.Conn) string {
	running.mu.Lock()
	names := maps.Clone(running.names)
	running.mu.Unlock()
	pid, err := sockets.Peer(conn, slices.Collect(maps.Keys(names)))
	if err != nil {
		return ""
	}
	return names[pid]
}

// note notes that a process runs, and forget that it has ended.
func note(pid int, name string) {
	running.mu.Lock()
	defer running.mu.Unlock()
	if running.names == nil {
		running.names = map[int]string{}
	}
	running.names[pid] = name
}

func forget(pid int) {
	running.mu.Lock()
	defer running.mu.Unlock()
	delete(running.names, pid)
}

// Run starts a process in dir's log file and waits until it is ready.
func Run(ctx context.Context, dir string, c Command) (*Process, error) {
	p, err := launch(dir, c)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	select {
	case line, ok := <-p.ready:
		if ok {
			p.ReadyLine = line
			return p, nil
		}
		err = errors.New("ended before it was ready")
	case <-ctx.Done():
		err = fmt.Errorf("not ready: %w", ctx.Err())
	}
	p.Kill()
	return nil, fmt.Errorf("start %s: %w; its output:\n%s", c.Name, err, p.Output())
}

// launch starts a process.
func launch(dir string, c Command) (*Process, error) {
	log, err := os.OpenFile(filepath.Join(dir, c.Name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	p := &Process{Name: c.Name, Log: log.Name(), command: c, ready: make(chan string, 1), exited: make(chan struct{})}
	p.cmd = exec.Command(c.Path, c.Args...)
	p.cmd.Env = append(environment(), c.Env...)
	p.cmd.Dir = c.Dir
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p.cmd.Stderr = log
	stdout, err := p.cmd.StdoutPipe()
	if err == nil {
		err = p.cmd.Start()
	}
	if err != nil {
		log.Close()
		return nil, err
	}
	p.PID = p.cmd.Process.Pid
	note(p.PID, p.Name)
	if c.Started != nil {
		c.Started(p.PID)
	}
	ready := c.Ready
	if ready == nil {
		ready = readyLine
	}
	go p.watch(stdout, log, ready)
	return p, nil
}

// environment is the environment of all processes. A program with the race
// detector otherwise sleeps for a second before it exits.
func environment() []string { return append(os.Environ(), "GORACE=atexit_sleep_ms=0") }

// watch copies standard output to the log, looks for the ready line and waits
// for the end. It ends with the process.
func (p *Process) watch(stdout io.Reader, log *os.File, ready *regexp.Regexp) {
	defer log.Close()
	var once sync.Once
	lines := bufio.NewReader(stdout)
	for {
		line, err := lines.ReadString('\n')
		io.WriteString(log, line)
		if ready.MatchString(line) {
			once.Do(func() { p.ready <- strings.TrimSpace(line) })
		}
		if err != nil {
			break
		}
	}
	close(p.ready)
	p.err = p.cmd.Wait()
	forget(p.PID)
	close(p.exited)
}

// Signal sends a signal to the process, not to its children.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Kill kills the process and its children with SIGKILL and returns when it is
// gone. It may be called more than once.
func (p *Process) Kill() {
	if p.Running() {
		syscall.Kill(-p.PID, syscall.SIGKILL)
	}
	<-p.exited
}

// Wait waits for the process to end by itself, and returns its exit code.
func (p *Process) Wait(limit time.Duration) (int, error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-timer.C:
		return 0, fmt.Errorf("%s still runs after %v", p.Name, limit)
	}
}

// Running reports whether the process has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Output returns what the process wrote.
func (p *Process) Output() string {
	data, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// crash matches what the Go runtime writes when a program is wrong.
var crash = regexp.MustCompile(`(?m)^(WARNING: DATA RACE|panic: |fatal error: )`)

// Fault returns what the runtime complained of in the process's output, or "".
func (p *Process) Fault() string {
	out := p.Output()
	at := crash.FindStringIndex(out)
	if at == nil {
		return ""
	}
	return out[at[0]:min(len(out), at[0]+4000)]
}
