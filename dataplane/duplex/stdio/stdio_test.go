package stdio

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/duplex"
	"github.com/leasehold/leasehold/dataplane/duplex/duplextest"
	"github.com/leasehold/leasehold/dataplane/session"
)

func init() {
	duplextest.Main()
	if os.Getenv("LEASEHOLD_TEST_PARENT") != "" {
		parent()
	}
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// log collects what is logged.
type log struct {
	mu   sync.Mutex // guards text
	text strings.Builder
	also io.Writer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	return l.also.Write(p)
}

func (l *log) has(part string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), part)
}

func newHost(t *testing.T, cfg Config) (*Host, *log) {
	t.Helper()
	l := &log{also: t.Output()}
	cfg.Allow, cfg.Logger = true, hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: l})
	h, err := NewHost(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h.grace = 300 * time.Millisecond
	t.Cleanup(func() {
		if n := h.Running(); n != 0 {
			t.Errorf("at the end %d programs run, want 0", n)
		}
	})
	return h, l
}

// upstream is the test program, which misbehaves as how says.
func upstream(how string) *config.Upstream {
	return &config.Upstream{Name: "u", Program: &config.Program{Command: os.Args[0],
		Env: map[string]string{duplextest.Env: how, "GORACE": "atexit_sleep_ms=0"}}}
}

func open(t *testing.T, h *Host, how string) *program {
	t.Helper()
	c, err := h.Open(t.Context(), &session.Dispatch{Upstream: upstream(how)})
	if err != nil {
		t.Fatal(err)
	}
	p := c.(*program)
	t.Cleanup(func() { finish(t, p) })
	return p
}

// finish ends a program, and returns when it is gone.
func finish(t *testing.T, p *program) {
	t.Helper()
	p.Close()
	awaitGone(t, p)
}

// awaitGone reads to the end, and returns when the program is gone.
func awaitGone(t *testing.T, p *program) {
	t.Helper()
	for err := error(nil); err == nil; _, err = p.Receive() {
	}
	select {
	case <-p.Gone():
	case <-time.After(20 * time.Second):
		t.Fatal("the program is not gone after 20 s")
	}
}

func send(ctx context.Context, p *program, tool, arguments string) error {
	return p.Send(ctx, &session.Dispatch{Body: fmt.Appendf(nil,
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":%q,"arguments":%s}}`, tool, arguments)})
}

// call calls a tool and returns its text.
func call(t *testing.T, p *program, tool, arguments string) string {
	t.Helper()
	if err := send(t.Context(), p, tool, arguments); err != nil {
		t.Fatal(err)
	}
	data, err := p.Receive()
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Result struct{ Content []struct{ Text string } }
	}
	if json.Unmarshal(data, &answer); len(answer.Result.Content) != 1 {
		t.Fatalf("%s: got %.200s, want a text", tool, data)
	}
	return answer.Result.Content[0].Text
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// runs reports whether there is a process that is not just waiting to be reaped.
func runs(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X")
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestNothingIsLeftOfAProgram(t *testing.T) {
	for name, c := range map[string]struct {
		how string
		end func(p *program)
	}{
		"closed":                 {"", (*program).Close},
		"closed, and deaf":       {"deaf", (*program).Close},
		"ended by itself":        {"", func(p *program) { send(context.Background(), p, "exit", `{"count":1}`) }},
		"killed by someone else": {"", func(p *program) { p.cmd.Process.Signal(syscall.SIGKILL) }},
	} {
		t.Run(name, func(t *testing.T) {
			h, _ := newHost(t, Config{})
			p := open(t, h, c.how)
			child := number(t, call(t, p, "child", `{}`))
			if !runs(child) || !runs(p.cmd.Process.Pid) {
				t.Fatal("the program and its child do not run")
			}
			began := time.Now()
			c.end(p)
			awaitGone(t, p)
			if took := time.Since(began); took > 5*time.Second {
				t.Errorf("took %v, want less", took)
			}
			eventually(t, "its child is gone too", func() bool { return !runs(child) })
			if _, err := os.Stat(fmt.Sprintf("/proc/%d", p.cmd.Process.Pid)); err == nil {
				t.Error("the process was not reaped")
			}
		})
	}
}

func TestAWorkerThatStopsDoesNotWaitLongForDeafPrograms(t *testing.T) {
	h, _ := newHost(t, Config{})
	h.grace = time.Hour
	p := open(t, h, "deaf")
	p.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	h.Run(ctx)
	awaitGone(t, p)
	if took := time.Since(began); took < 2*hurried || took > 2*hurried+time.Second {
		t.Errorf("took %v, want %v", took, 2*hurried)
	}
}

func TestTheLogHasWhyAProgramEnded(t *testing.T) {
	h, l := newHost(t, Config{})
	p := open(t, h, "")
	send(t.Context(), p, "exit", `{"count":3,"text":"no such file"}`)
	if _, err := p.Receive(); err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("got %v, want the exit status", err)
	}
	awaitGone(t, p)
	for _, part := range []string{"program ended by itself", "exit status 3", "last words: no such file"} {
		if !l.has(part) {
			t.Errorf("the log has no %q", part)
		}
	}
}

func TestAProgramThatClosesItsOutputIsOver(t *testing.T) {
	h, _ := newHost(t, Config{})
	p := open(t, h, "")
	send(t.Context(), p, "close-output", `{}`)
	if _, err := p.Receive(); err == nil || !strings.Contains(err.Error(), "closed its standard output") {
		t.Errorf("got %v, want that it closed its standard output", err)
	}
}

func TestAMessageBeyondTheBoundEndsTheChannel(t *testing.T) {
	h, _ := newHost(t, Config{})
	p := open(t, h, "")
	if got := call(t, p, "size", fmt.Sprintf(`{"count":%d}`, maxMessage-200)); len(got) != maxMessage-200 {
		t.Errorf("a message within the bound: got %d bytes, want %d", len(got), maxMessage-200)
	}
	send(t.Context(), p, "size", fmt.Sprintf(`{"count":%d}`, maxMessage))
	if _, err := p.Receive(); !errors.Is(err, errTooLarge) {
		t.Errorf("a larger one: got %v, want %v", err, errTooLarge)
	}
	if _, err := p.Receive(); !errors.Is(err, errTooLarge) {
		t.Errorf("afterwards: got %v, want the same", err)
	}
}

func TestAProgramThatTakesNothingHoldsUpItsCallersOnly(t *testing.T) {
	h, _ := newHost(t, Config{})
	stuck, other := open(t, h, ""), open(t, h, "")
	if err := send(t.Context(), stuck, "stop-reading", `{}`); err != nil {
		t.Fatal(err)
	}
	large := fmt.Sprintf(`{"text":%q}`, strings.Repeat("x", 1<<20)) // more than a pipe holds
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := send(ctx, stuck, "x", large); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, session.ErrNotSent) {
		t.Errorf("a call of which a part was written: got %v, want the end of its context and an unknown outcome", err)
	}
	if err := send(ctx, stuck, "x", `{}`); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, session.ErrNotSent) {
		t.Errorf("a call behind it: got %v, want the end of its context and ErrNotSent", err)
	}
	if got := call(t, other, "x", `{}`); got != "1" {
		t.Errorf("another program: got %s, want 1", got)
	}
	stuck.Close()
	if err := send(t.Context(), stuck, "x", `{}`); !errors.Is(err, session.ErrNotSent) {
		t.Errorf("a call after the end: got %v, want ErrNotSent", err)
	}
}

func TestALineThatWasBegunIsWrittenToItsEnd(t *testing.T) {
	h, _ := newHost(t, Config{})
	p := open(t, h, "")
	if err := p.signalOne(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	err := send(ctx, p, "x", fmt.Sprintf(`{"text":%q}`, strings.Repeat("x", 1<<20)))
	if err == nil || errors.Is(err, session.ErrNotSent) {
		t.Fatalf("got %v, want an unknown outcome", err)
	}
	p.signalOne(syscall.SIGCONT)
	p.Receive() // the answer that nobody wants any more
	if got := call(t, p, "x", `{}`); got != "2" {
		t.Errorf("the next call: got %s, want that it is the second", got)
	}
}

func (p *program) signalOne(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

func TestAProgramHasFewVariablesOfTheWorker(t *testing.T) {
	t.Setenv("LEASEHOLD_SECRET", "do not tell")
	t.Setenv("TZ", "Asia/Tokyo")
	t.Setenv("LANG", "C")
	h, _ := newHost(t, Config{})
	u := upstream("")
	u.Program.Env["LANG"], u.Program.Env["OWN"] = "de_DE", "a b"
	c, err := h.Open(t.Context(), &session.Dispatch{Upstream: u})
	if err != nil {
		t.Fatal(err)
	}
	p := c.(*program)
	got := call(t, p, "environment", `{}`)
	for _, part := range []string{"TZ=Asia/Tokyo", "LANG=de_DE", "OWN=a b", "PATH="} {
		if !strings.Contains(got, part) {
			t.Errorf("got %q, want %s in it", got, part)
		}
	}
	if strings.Contains(got, "do not tell") {
		t.Errorf("got %q, want nothing else of the worker", got)
	}
	finish(t, p)
}

func refusedWith(t *testing.T, err error, status int, part string) {
	t.Helper()
	refused := (*duplex.Refused)(nil)
	if !errors.As(err, &refused) {
		t.Fatalf("got %v, want a refusal", err)
	}
	body, _ := io.ReadAll(refused.Answer.Body)
	if refused.Answer.StatusCode != status || !strings.Contains(string(body), part) || !strings.Contains(string(body), `"id":7`) {
		t.Errorf("got HTTP %d %s, want %d, %q and the request's id", refused.Answer.StatusCode, body, status, part)
	}
}

func TestProgramsRunOnlyWhereTheyMay(t *testing.T) {
	h, err := NewHost(Config{Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	_, err = h.Open(t.Context(), &session.Dispatch{Upstream: upstream(""), Body: []byte(`{"jsonrpc":"2.0","id":7,"method":"initialize"}`)})
	refusedWith(t, err, http.StatusBadGateway, "this worker does not run programs: start it with --allow-stdio")
}

func TestNoMoreProgramsRunThanMay(t *testing.T) {
	h, _ := newHost(t, Config{Max: 2})
	first := open(t, h, "")
	open(t, h, "")
	d := &session.Dispatch{Upstream: upstream(""), Body: []byte(`{"jsonrpc":"2.0","id":7,"method":"initialize"}`)}
	_, err := h.Open(t.Context(), d)
	refusedWith(t, err, http.StatusServiceUnavailable, "runs 2 programs, which is its bound")
	finish(t, first)
	open(t, h, "")
}

func TestAProgramThatCannotBeStartedTakesNoPlace(t *testing.T) {
	h, _ := newHost(t, Config{Max: 1})
	for _, command := range []string{"/does/not/exist", "no-such-program", "/"} {
		_, err := h.Open(t.Context(), &session.Dispatch{Upstream: &config.Upstream{Program: &config.Program{Command: command}}})
		if !errors.Is(err, session.ErrNotSent) || h.Running() != 0 {
			t.Errorf("%s: got %v and %d programs, want ErrNotSent and none", command, err, h.Running())
		}
	}
}

func TestLongLinesOfStandardErrorAreClippedAndFloodsAreNotLogged(t *testing.T) {
	h, l := newHost(t, Config{})
	p := open(t, h, "")
	call(t, p, "complain", fmt.Sprintf(`{"text":"long","count":%d}`, 100_000))
	call(t, p, "complain", fmt.Sprintf(`{"text":"many\n","count":%d}`, 5_000))
	call(t, p, "complain", `{"text":"the end"}`)
	eventually(t, "all was read", func() bool { return strings.HasSuffix(p.errors.last(), "the end") })
	if n := len(p.errors.last()); n > maxTail {
		t.Errorf("kept %d bytes, want at most %d", n, maxTail)
	}
	finish(t, p)
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		if len(line) > maxLine+500 {
			t.Errorf("a line of the log has %d bytes, want about %d at most", len(line), maxLine)
		}
	}
	if n := strings.Count(l.text.String(), "line=long"); n != 1 {
		t.Errorf("a line of 400,000 bytes makes %d lines of the log, want one", n)
	}
	if n := strings.Count(l.text.String(), "line=many"); n == 0 || n > 1000 {
		t.Errorf("%d of 5000 lines were logged, want some", n)
	}
	if !strings.Contains(l.text.String(), "they were too many") {
		t.Error("the log does not say that lines are missing")
	}
}

func TestMemoryOfAProgramIsBounded(t *testing.T) {
	h, _ := newHost(t, Config{Memory: 256 << 20})
	allocate := func(size string) string {
		// The buffer is dd's, so the bound holds for what the program starts, too.
		c, err := h.Open(t.Context(), &session.Dispatch{Upstream: &config.Upstream{Name: "u", Program: &config.Program{
			Command: "sh", Args: []string{"-c", "read go; dd if=/dev/zero of=/dev/null count=1 bs=" + size + " || echo refused; echo done"}}}})
		if err != nil {
			t.Fatal(err)
		}
		p := c.(*program)
		if err := p.Send(t.Context(), &session.Dispatch{}); err != nil {
			t.Fatal(err)
		}
		first, _ := p.Receive()
		got := string(first)
		finish(t, p)
		return got
	}
	if got := allocate("64M"); got != "done" {
		t.Errorf("64 MiB of 256: got %q, want done", got)
	}
	if got := allocate("1G"); got != "refused" {
		t.Errorf("1 GiB of 256 MiB: got %q, want refused", got)
	}
}

// parent is a worker's stand-in: it starts a program and waits for ever.
func parent() {
	h, err := NewHost(Config{Allow: true, Logger: hclog.NewNullLogger()})
	if err != nil {
		panic(err)
	}
	c, err := h.Open(context.Background(), &session.Dispatch{Upstream: upstream("deaf")})
	if err != nil {
		panic(err)
	}
	fmt.Println(c.(*program).cmd.Process.Pid)
	select {}
}

func TestAProgramDiesWithItsWorker(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "LEASEHOLD_TEST_PARENT=yes")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil || !runs(pid) {
		t.Fatalf("the program does not run: %v", err)
	}
	cmd.Process.Kill()
	eventually(t, "the program is gone", func() bool { return !runs(pid) })
}
