package pairs

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/leasehold/leasehold/test/internal/poll"
)

// told is what a server has told a client unasked.
type told struct {
	mu    sync.Mutex // guards all below
	times map[string]int
}

// add notes that the client was told something.
func (t *told) add(what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.times == nil {
		t.times = map[string]int{}
	}
	t.times[what]++
}

// count returns how often the client was told something.
func (t *told) count(what string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.times[what]
}

// wholeSession is a client that does nearly all that there is in the protocol.
type wholeSession interface {
	session
	// Prompt gets a prompt without arguments and returns its text.
	Prompt(ctx context.Context, name string) (string, error)
	// Read reads a resource and returns the URIs of its contents.
	Read(ctx context.Context, uri string) ([]string, error)
	// Complete asks for completions of an argument of a prompt.
	Complete(ctx context.Context, prompt, argument, value string) ([]string, error)
	// Level says from which level on the client wants to have logs.
	Level(ctx context.Context, level string) error
	// Roots gives the client a root that it did not have, and says so.
	Roots(ctx context.Context, uri string) error
	// Told is what the client was told: "tools changed", "updated URI", "log TEXT".
	Told() *told
}

// part is one of several upstreams of a gateway.
type part struct {
	counterpart
	goesOn bool // with its sessions, when their owner is lost
}

// parts are the upstreams of the gateway that has several, but for the dead one.
func parts() (all []part) {
	for _, s := range servers {
		all = append(all, part{s, s.name != "everything-sse" && s.name != "everything-stdio"})
	}
	return all
}

// named is what the gateway calls a tool or a prompt of the part.
func (p part) named(name string) string { return p.name + "_" + name }

// at is what the gateway calls a resource of the part that another part has too.
func (p part) at(uri string) string { return p.name + "+" + uri }

// ours says that the part is a server of this package.
func (p part) ours() bool { return p.stateful == toolCount }

// of is a call of the part's, made through the gateway.
func (p part) of(c call) call {
	c.tool = p.named(c.tool)
	return c
}

// traveller is a client with a session at all parts.
type traveller struct {
	wholeSession
	library  library
	front    *front
	greeting greeting
	round    int // the one that it is on

	mu     sync.Mutex        // guards all below
	ids    map[string]string // of its sessions, by part
	states map[string]int    // how often that tool was called in them
}

// moved notes that the session has another owner: what cannot outlive the first is
// lost.
func (v *traveller) moved() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, p := range parts() {
		if !p.goesOn {
			delete(v.ids, p.name)
			delete(v.states, p.name)
		}
	}
}

// goRound does all that there is to do, with all parts. What a client asks for once,
// it asks for on its first round only.
func (v *traveller) goRound(ctx context.Context) error {
	v.round++
	if err := v.catalogue(ctx); err != nil {
		return err
	}
	if v.round == 1 {
		if err := v.wishes(ctx); err != nil {
			return err
		}
	}
	var errs []error
	var mu sync.Mutex
	var group sync.WaitGroup
	for _, do := range []func(context.Context) error{v.overall, v.own} {
		group.Go(func() {
			err := do(ctx)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	for _, p := range parts() {
		group.Go(func() {
			if err := v.visit(ctx, p); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("upstream %s: %w", p.name, err))
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// catalogue waits until the lists have what all parts have, under the names that
// they have at the gateway, and nothing else.
func (v *traveller) catalogue(ctx context.Context) error {
	_, err := poll.Until(ctx, 15*time.Second, func(ctx context.Context) error {
		for _, kind := range []string{"tools", "prompts", "resources"} {
			names, err := v.List(ctx, kind)
			if err != nil {
				return fmt.Errorf("list %s: %w", kind, err)
			}
			if err := complete(kind, names, v.round-1); err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// complete checks a list; grown is how many tools the server of go-sdk has added.
func complete(kind string, names []string, grown int) error {
	var want []string
	for _, p := range parts() {
		switch kind {
		case "tools":
			want = append(want, p.named(p.tool), p.named(p.counterpart.sampling.tool), p.named(p.elicitation.tool))
			for n := range grown {
				if p.name == "go-sdk" {
					want = append(want, p.named(fmt.Sprint("grown-", n+1)))
				}
			}
		case "prompts":
			want = append(want, p.named(p.prompt))
		default:
			want = append(want, p.at(p.resource))
		}
	}
	if kind == "resources" {
		want = append(want, ownNote)
	}
	for _, name := range want {
		if !slices.Contains(names, name) {
			return fmt.Errorf("%s are %v, want %s among them", kind, names, name)
		}
	}
	sorted := slices.Sorted(slices.Values(names))
	if unique := slices.Compact(slices.Clone(sorted)); len(unique) != len(names) {
		return fmt.Errorf("%s are %v, want each once", kind, sorted)
	}
	return nil
}

// wishes are what a client asks for once.
func (v *traveller) wishes(ctx context.Context) error {
	if err := v.Level(ctx, "warning"); err != nil {
		return fmt.Errorf("set the log level: %w", err)
	}
	for _, p := range parts() {
		if !p.ours() {
			continue
		}
		if err := v.Subscribe(ctx, p.at(note)); err != nil {
			return fmt.Errorf("subscribe to %s: %w", p.at(note), err)
		}
	}
	return nil
}

// overall does what concerns all parts: roots, and a part that is dead.
func (v *traveller) overall(ctx context.Context) error {
	began := time.Now()
	if _, err := v.Call(ctx, "dead_tool", map[string]any{}, nil); err == nil || !strings.Contains(err.Error(), "dead") {
		return fmt.Errorf("a call at the dead upstream ended with %v, want an error with its name", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		return fmt.Errorf("a call at the dead upstream took %v, want an error at once", took)
	}
	newest := fmt.Sprintf("file:///round/%d", v.round)
	if err := v.Roots(ctx, newest); err != nil {
		return fmt.Errorf("change roots: %w", err)
	}
	for _, p := range parts() {
		if p.ours() {
			continue
		}
		root := newest
		if v.round > 1 && p.forgetsListeners && p.goesOn {
			root = "file:///round/" // it has those that it had: what it asks for on a stream that came back gets lost
		}
		// It asks for the roots after it has heard that they are others.
		_, err := poll.Until(ctx, 10*time.Second, func(ctx context.Context) error {
			return v.does(ctx, p.of(call{tool: "get-roots-list", want: root}), nil)
		})
		if err != nil {
			return fmt.Errorf("upstream %s: roots: %w", p.name, err)
		}
	}
	return nil
}

// does makes a call and checks its result.
func (v *traveller) does(ctx context.Context, c call, progress func()) error {
	r := run{session: v.wholeSession}
	if err := r.calls(ctx, c, progress); err != nil {
		return fmt.Errorf("call %s: %w", c.tool, err)
	}
	return nil
}

// hears makes a call, after which the client is to be told something that it was
// not told before.
func (v *traveller) hears(ctx context.Context, c call, what string) error {
	before := v.Told().count(what)
	if err := v.does(ctx, c, nil); err != nil {
		return err
	}
	_, err := poll.Until(ctx, 10*time.Second, func(context.Context) error {
		if v.Told().count(what) == before {
			return fmt.Errorf("after %s the client was not told %q", c.tool, what)
		}
		return nil
	})
	return err
}

// own does what only the server of go-sdk offers.
func (v *traveller) own(ctx context.Context) error {
	for _, p := range parts() {
		if p.name != "go-sdk" {
			continue
		}
		if uris, err := v.Read(ctx, ownNote); err != nil || !slices.Equal(uris, []string{ownNote}) {
			return fmt.Errorf("read %s: got %v, %v", ownNote, uris, err)
		}
		if err := v.hears(ctx, p.of(call{tool: toolLog, want: "logged"}), "log "+loud); err != nil {
			return err
		}
		if v.Told().count("log "+quiet) != 0 {
			return errors.New("the client was sent a log below the level that it has set")
		}
		grown := fmt.Sprint("grown-", v.round)
		if err := v.hears(ctx, p.of(call{tool: toolGrow, want: grown}), "tools changed"); err != nil {
			return err
		}
		_, err := poll.Until(ctx, 10*time.Second, func(ctx context.Context) error {
			names, err := v.List(ctx, "tools")
			if err != nil {
				return err
			}
			return complete("tools", names, v.round)
		})
		if err != nil {
			return err
		}
		return v.does(ctx, p.of(call{tool: grown, want: grown}), nil)
	}
	return nil
}

// visit does all that there is to do with one part.
func (v *traveller) visit(ctx context.Context, p part) error {
	for _, c := range []call{p.plain, p.counterpart.sampling, p.elicitation} {
		if err := v.does(ctx, p.of(c), nil); err != nil {
			return err
		}
	}
	text, err := v.Prompt(ctx, p.named(p.prompt))
	if err != nil || text == "" {
		return fmt.Errorf("prompt %s: %q, %v", p.named(p.prompt), text, err)
	}
	uri := p.at(p.uri) // a template's, at server-everything
	if uris, err := v.Read(ctx, uri); err != nil || !slices.Equal(uris, []string{uri}) {
		return fmt.Errorf("read %s: got %v, %v", uri, uris, err)
	}
	var reports atomic.Int64
	if err := v.does(ctx, p.of(p.progress), func() { reports.Add(1) }); err != nil {
		return err
	}
	// Some clients pass on what comes with the result after it.
	_, err = poll.Until(ctx, 5*time.Second, func(context.Context) error {
		if got := int(reports.Load()); got < 1 || got > p.steps {
			return fmt.Errorf("the client passed on %d reports of progress, want 1 to %d", got, p.steps)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if p.ours() {
		if err := v.hears(ctx, p.of(p.touch), "updated "+p.at(note)); err != nil {
			return err
		}
	} else if values, err := v.Complete(ctx, p.named("completable-prompt"), "department", "Eng"); err != nil || !slices.Equal(values, []string{"Engineering"}) {
		return fmt.Errorf("completion: got %v, %v", values, err)
	}
	if err := v.cancels(ctx, p); err != nil {
		return err
	}
	return v.state(ctx, p)
}

// cancelledIn are the rounds in which calls of a part are cancelled. It is not
// all of them since the TypeScript SDK
// keeps a stream for each call that it has cancelled, and a session may have eight.
var cancelledIn = map[string][]int{
	"go-sdk": {1, 3}, "mcp-go": {2}, "everything": {3}, "everything-sse": {1}, "everything-stdio": {2},
}

// cancels cancels a call after its first report, if this is the round for it.
func (v *traveller) cancels(ctx context.Context, p part) error {
	times := 1 + slices.Index(cancelledIn[p.name], v.round)
	if fails, _ := expected(v.library.name, p.name, "cancel"); fails.through || times == 0 {
		return nil
	}
	c := p.cancelled
	if c.tool != "" {
		c = p.of(c)
		c.want = fmt.Sprint("cancelled: ", times)
	}
	r := run{
		library: v.library, session: v.wholeSession,
		counterpart: counterpart{profile: profile{long: p.of(p.long), plain: p.of(p.plain), cancelled: c}},
	}
	return r.cancels(ctx)
}

// state checks that the part's session is the one that it was, or, if that was lost,
// a new one.
func (v *traveller) state(ctx context.Context, p part) error {
	text, err := v.Call(ctx, p.named(p.stateful), map[string]any{}, nil)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	want := p.profile.states[v.states[p.name]%2]
	v.states[p.name]++
	if p.ours() {
		want = regexp.MustCompile(fmt.Sprintf(`^count %d of (\S+)$`, v.states[p.name]))
	}
	found := want.FindStringSubmatch(text)
	if found == nil {
		return fmt.Errorf("%s says %q, want %v", p.stateful, text, want)
	}
	if before, known := v.ids[p.name]; known && before != found[1] {
		return fmt.Errorf("the server knows the session as %s, before it was %s", found[1], before)
	}
	v.ids[p.name] = found[1]
	return nil
}

// takeOff makes a call that takes its time, if the client can come back for the
// result, and returns how it ends once the server has said something.
func (v *traveller) takeOff(ctx context.Context, p part) (ends <-chan error, err error) {
	end, said := make(chan error, 1), make(chan struct{})
	if fails, _ := expected(v.library.name, p.name, "resume a broken stream"); fails.through {
		end <- nil
		return end, nil
	}
	var once sync.Once
	go func() { end <- v.does(ctx, p.of(p.slower), func() { once.Do(func() { close(said) }) }) }()
	select {
	case <-said:
		return end, nil
	case err := <-end:
		return nil, fmt.Errorf("it ended before it said anything: %w", err)
	}
}
