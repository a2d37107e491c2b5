package stdio

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/leasehold/leasehold/dataplane/session"
)

const (
	// grace is what a program has to end after its standard input was closed, and
	// once more after SIGTERM, before it is killed.
	grace = 2 * time.Second
	// hurried is the grace when the worker stops.
	hurried = 500 * time.Millisecond
	// lastOutput is how long what an ended program wrote is read at most. It is
	// over sooner unless somebody has left its group and keeps its output open.
	lastOutput = 2 * time.Second
	// exitTime is how long a program that has closed its standard output is waited
	// for, so that its exit can be told.
	exitTime = 500 * time.Millisecond
	// maxMessage bounds a message, so that it fits an event with what belongs
	// around it.
	maxMessage = session.MaxEvent - 64
)

var (
	errEnded    = errors.New("the session was ended")
	errTooLarge = fmt.Errorf("the program sent a message of more than %d bytes", maxMessage)
)

// program is a process, as a channel of messages.
//
//	runs ── Close ──▶ its input is closed ── grace ──▶ SIGTERM ── grace ──▶ SIGKILL
//	  └────────────────────┴── it exits ─────┴─────────────┴──────────────────┴──▶ the rest of its
//	                                                            group is killed, it is reaped: gone
type program struct {
	host   *Host
	cmd    *exec.Cmd
	logger hclog.Logger
	stdin  *os.File
	stdout *os.File
	lines  *bufio.Reader
	errors *tail

	outgoing chan *outgoing
	closing  chan struct{} // closed by Close
	reaped   chan struct{} // closed when the process is no more
	gone     chan struct{} // closed when nothing is left but stdout
	helpers  sync.WaitGroup

	ended error // what Receive returns for ever

	mu       sync.Mutex // guards what follows
	closed   bool
	exited   bool // no signal may be sent any more
	byItself bool // it exited before it was closed
}

// outgoing is a line on its way to the program.
type outgoing struct {
	line []byte
	gate session.Gate
	done chan error // capacity 1
}

// newProgram starts cmd.
func newProgram(h *Host, cmd *exec.Cmd, logger hclog.Logger) (*program, error) {
	p := &program{host: h, cmd: cmd, outgoing: make(chan *outgoing),
		closing: make(chan struct{}), reaped: make(chan struct{}), gone: make(chan struct{})}
	started := make(chan error)
	go p.run(logger, started)
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// run starts the process and stays with it to its end. The kernel kills a process
// whose parent is gone when the thread is that started it: so this goroutine keeps
// its thread, which it needs for waiting anyway.
func (p *program) run(logger hclog.Logger, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	stderr, err := p.start()
	if err != nil {
		p.host.release()
		started <- err
		return
	}
	p.logger = logger.With("pid", p.cmd.Process.Pid)
	p.errors = newTail(p.logger)
	p.helpers.Go(p.write)
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		p.errors.readFrom(stderr)
	}()
	started <- nil
	state := p.reap()
	deadline := time.Now().Add(lastOutput)
	stderr.SetReadDeadline(deadline)
	p.stdout.SetReadDeadline(deadline)
	<-heard
	stderr.Close()
	p.report(state)
	p.Close() // ends the writing
	p.helpers.Wait()
	p.host.release()
	close(p.gone)
}

// start starts the process with pipes, of which the other ends are its own.
func (p *program) start() (stderr *os.File, err error) {
	var pipes [3][2]*os.File
	closeAll := func(end int) {
		for _, pipe := range pipes {
			if pipe[end] != nil {
				pipe[end].Close()
			}
		}
	}
	for i := range pipes {
		if pipes[i][0], pipes[i][1], err = os.Pipe(); err != nil {
			break
		}
	}
	// Of the first the program has the end to read, of the others that to write.
	pipes[0][0], pipes[0][1] = pipes[0][1], pipes[0][0]
	defer closeAll(1)
	if err == nil {
		p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = pipes[0][1], pipes[1][1], pipes[2][1]
		err = p.cmd.Start()
	}
	if err == nil {
		if err = limit(p.cmd.Process.Pid, p.host.cfg.Memory); err != nil {
			p.signal(syscall.SIGKILL)
			p.cmd.Wait()
		}
	}
	if err != nil {
		closeAll(0)
		return nil, err
	}
	p.stdin, p.stdout = pipes[0][0], pipes[1][0]
	p.lines = bufio.NewReaderSize(p.stdout, 16<<10)
	return pipes[2][0], nil
}

// reap waits until the process has exited, and kills what is left of its group
// while its number cannot be anybody else's.
func (p *program) reap() *os.ProcessState {
	awaitExit(p.cmd)
	p.mu.Lock()
	defer p.mu.Unlock()
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	p.cmd.Wait()
	p.exited, p.byItself = true, !p.closed
	close(p.reaped)
	return p.cmd.ProcessState
}

// report says in the log how the process ended.
func (p *program) report(state *os.ProcessState) {
	if !p.endedByItself() {
		p.logger.Debug("program ended", "status", state)
		return
	}
	p.logger.Warn("program ended by itself", "status", state, "stderr", p.errors.last())
}

// signal sends a signal to the group while there is one.
func (p *program) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.exited {
		syscall.Kill(-p.cmd.Process.Pid, s)
	}
}

func (p *program) endedByItself() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.byItself
}

// Close implements duplex.Channel.
func (p *program) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.closed = true
	close(p.closing)
	p.stdin.SetWriteDeadline(time.Unix(1, 0)) // a write under way ends
	if !p.exited {
		p.helpers.Go(p.escalate)
	}
}

// escalate makes a process end whose standard input is closed.
func (p *program) escalate() {
	for _, s := range [...]syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		if p.exits() {
			return
		}
		p.logger.Debug("program did not end, signalling its group", "signal", s)
		p.signal(s)
	}
}

// exits reports whether the process ends within its grace.
func (p *program) exits() bool {
	timer := time.NewTimer(p.host.grace)
	defer timer.Stop()
	select {
	case <-p.reaped:
		return true
	case <-timer.C:
		return false
	case <-p.host.hurry:
	}
	timer.Reset(hurried)
	select {
	case <-p.reaped:
		return true
	case <-timer.C:
		return false
	}
}

// Gone implements duplex.Channel.
func (p *program) Gone() <-chan struct{} { return p.gone }

// Send implements duplex.Channel. A line that was begun is written to its end even
// if nobody waits any more: half a line would spoil the next one.
func (p *program) Send(ctx context.Context, d *session.Dispatch) error {
	o := &outgoing{line: line(d.Body), gate: d.Gate, done: make(chan error, 1)}
	select {
	case p.outgoing <- o:
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", session.ErrNotSent, context.Cause(ctx))
	case <-p.closing:
		return fmt.Errorf("%w: %w", session.ErrNotSent, errEnded)
	}
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// write writes lines until the program is closed.
func (p *program) write() {
	defer p.stdin.Close()
	for {
		select {
		case o := <-p.outgoing:
			o.done <- p.writeLine(o)
		case <-p.closing:
			return
		}
	}
}

func (p *program) writeLine(o *outgoing) error {
	if o.gate != nil {
		if err := o.gate.Pass(); err != nil {
			return fmt.Errorf("%w: %w", session.ErrNotSent, err)
		}
	}
	if _, err := p.stdin.Write(o.line); err != nil {
		return fmt.Errorf("write to the program: %w", err)
	}
	return nil
}

// line makes a line of a message. In JSON line breaks are between tokens only,
// where a space means the same.
func line(body []byte) []byte {
	l := make([]byte, len(body), len(body)+1)
	for i, b := range body {
		if b == '\n' || b == '\r' {
			b = ' '
		}
		l[i] = b
	}
	return append(l, '\n')
}

// Receive implements duplex.Channel.
func (p *program) Receive() ([]byte, error) {
	if p.ended == nil {
		for {
			l, err := p.readLine()
			if err != nil {
				p.ended = p.why(err)
				p.stdout.Close()
				break
			}
			if len(l) > 0 {
				return l, nil
			}
		}
	}
	return nil, p.ended
}

// readLine returns the next line without its end.
func (p *program) readLine() ([]byte, error) {
	l, err := p.lines.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		whole := append([]byte(nil), l...)
		for err == bufio.ErrBufferFull && len(whole) <= maxMessage {
			l, err = p.lines.ReadSlice('\n')
			whole = append(whole, l...)
		}
		l = whole
	}
	if len(l) > maxMessage+1 {
		return nil, errTooLarge
	}
	if err != nil {
		return nil, err // half a line is none
	}
	l = l[:len(l)-1]
	if n := len(l); n > 0 && l[n-1] == '\r' {
		l = l[:n-1]
	}
	return l, nil
}

// why says why nothing more can be read.
func (p *program) why(err error) error {
	if errors.Is(err, errTooLarge) {
		return err
	}
	timer := time.NewTimer(exitTime)
	defer timer.Stop()
	select {
	case <-p.closing:
		return errEnded
	case <-p.reaped:
		if !p.endedByItself() {
			return errEnded
		}
		return fmt.Errorf("the program ended by itself: %v", p.cmd.ProcessState)
	case <-timer.C:
	}
	if err == io.EOF {
		return errors.New("the program closed its standard output")
	}
	return fmt.Errorf("read from the program: %w", err)
}
