package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func open(t *testing.T, path string) *Log {
	t.Helper()
	l, err := Open(path, func(error) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// entries are the methods and what was omitted of the lines in a file.
func entries(t *testing.T, path string) (list []string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var e Entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		list = append(list, fmt.Sprint(e.Method, " ", e.Omitted))
	}
	return list
}

func write(t *testing.T, l *Log, method string) {
	t.Helper()
	if err := l.Write(&Entry{Method: method, Code: "OK"}); err != nil {
		t.Error(err)
	}
}

func want(t *testing.T, path string, methods ...string) {
	t.Helper()
	var list []string
	for _, m := range methods {
		list = append(list, m+" 0")
	}
	if got := entries(t, path); strings.Join(got, ",") != strings.Join(list, ",") {
		t.Errorf("%s has %v, want %v", filepath.Base(path), got, list)
	}
}

func TestLinesAreAppendedToAFileForItsOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	write(t, open(t, path), "a")
	write(t, open(t, path), "b")
	want(t, path, "a", "b")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
}

func TestLogThatOthersMayUseIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(path, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, func(error) {}); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("got %v, want it to say what to do", err)
	}
	if _, err := Open(filepath.Dir(path), func(error) {}); err == nil {
		t.Error("a directory was opened")
	}
	if _, err := Open("/dev/null", func(error) {}); err == nil || !strings.Contains(err.Error(), "regular") {
		t.Errorf("a device: got %v, want it refused", err)
	}
}

func TestLogGoesOnInANewFileWhenTheOldOneWasMovedAway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, path)
	write(t, l, "a")
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write(t, l, "b")
	want(t, path+".1", "a")
	want(t, path, "b")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	write(t, l, "c")
	want(t, path, "c")
}

func TestLogIsBounded(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.log")
	if err := os.WriteFile(path+".notes", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, path)
	l.file.long = 1 // each line is long
	for i := range 3 * maxAside {
		write(t, l, fmt.Sprint(i))
	}
	aside, err := l.file.aside()
	if err != nil || len(aside) != maxAside {
		t.Fatalf("%d files are put aside, %v; want %d", len(aside), err, maxAside)
	}
	want(t, path, fmt.Sprint(3*maxAside-1))
	want(t, aside[maxAside-1], fmt.Sprint(3*maxAside-2))
	want(t, aside[0], fmt.Sprint(2*maxAside-1))
	if files, _ := os.ReadDir(dir); len(files) != maxAside+2 {
		t.Errorf("the directory has %d files, want those, the log, and one of somebody else's", len(files))
	}
}

// failing is a writer that may fail after some bytes.
type failing struct {
	strings.Builder
	err  error
	some int
}

func (f *failing) Write(p []byte) (int, error) {
	if f.err != nil {
		f.Builder.Write(p[:f.some])
		return f.some, f.err
	}
	return f.Builder.Write(p)
}

func TestNothingMayBeChangedUntilWhatCouldNotBeWrittenIs(t *testing.T) {
	out := &failing{}
	var told []error
	l := open(t, Stderr)
	l.out, l.health = out, func(err error) { told = append(told, err) }
	write(t, l, "a")
	out.err, out.some = errors.New("disk full"), 5
	for _, method := range []string{"b", "c"} { // both were under way
		if err := l.Write(&Entry{Method: method, Code: "OK"}); !errors.Is(err, ErrUnavailable) {
			t.Errorf("write %s: %v, want ErrUnavailable", method, err)
		}
	}
	if err := l.Ready(); !errors.Is(err, ErrUnavailable) {
		t.Errorf("ready: %v, want ErrUnavailable", err)
	}
	if len(told) != 1 || !errors.Is(told[0], ErrUnavailable) || !strings.Contains(told[0].Error(), "disk full") {
		t.Errorf("health was told %v, want once why", told)
	}
	out.err = nil
	if err := l.Ready(); err != nil {
		t.Errorf("ready, with room again: %v", err)
	}
	if len(told) != 2 || told[1] != nil {
		t.Errorf("health was told %v, want that it is well", told)
	}
	write(t, l, "d")
	path := filepath.Join(t.TempDir(), "what")
	if err := os.WriteFile(path, []byte(out.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	want(t, path, "a", "b", "c", "d")
}

func TestWhoMayDoNothingDoesNotFillTheLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, path)
	const calls = 5000
	for range calls {
		if err := l.Write(&Entry{Method: "refused", Code: "PERMISSION_DENIED"}); err != nil {
			t.Fatal(err)
		}
	}
	write(t, l, "allowed")
	got := entries(t, path)
	lines, last := len(got), got[len(got)-1]
	if lines < refusedAtOnce+1 || lines > refusedAtOnce+60 {
		t.Errorf("%d calls that were refused have %d lines, want about %d", calls, lines, refusedAtOnce)
	}
	if !strings.HasPrefix(last, "allowed ") || strings.HasSuffix(last, " 0") {
		t.Errorf("the last line is of %s, want it to say how many have none", last)
	}
}

func TestLinesOfCallsAtTheSameTimeDoNotMix(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l := open(t, path)
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() { write(t, l, strings.Repeat("x", 1000)) })
	}
	group.Wait()
	if got := entries(t, path); len(got) != 50 {
		t.Errorf("%d lines, want 50", len(got))
	}
}

func TestDigestIsOfWhatTheOperatorSays(t *testing.T) {
	secret := func(value, fingerprint string) *leaseholdv1.Secret {
		return &leaseholdv1.Secret{Source: &leaseholdv1.Secret_Value{Value: value}, Fingerprint: fingerprint}
	}
	g := func(change func(*leaseholdv1.Gateway)) string {
		def := &leaseholdv1.Gateway{Name: "gateways/a", Labels: map[string]string{"a": "1", "b": "2"}, Upstreams: []*leaseholdv1.Upstream{{
			Name: "up", Url: "http://up", Credential: &leaseholdv1.Credential{Kind: &leaseholdv1.Credential_Bearer{Bearer: secret("CANARY", "f1")}},
		}}}
		change(def)
		before := proto.CloneOf(def)
		digest := Digest(def)
		if !proto.Equal(def, before) {
			t.Error("the definition was changed")
		}
		return digest
	}
	one := g(func(*leaseholdv1.Gateway) {})
	if !strings.HasPrefix(one, "sha256:") || len(one) != 71 {
		t.Errorf("digest is %q", one)
	}
	for name, c := range map[string]struct {
		change func(*leaseholdv1.Gateway)
		same   bool
	}{
		"what the control plane says": {func(g *leaseholdv1.Gateway) {
			g.Etag, g.UpdateTime, g.Status = "x", timestamppb.Now(), &leaseholdv1.GatewayStatus{Revision: 7}
		}, true},
		"how the secret is read": {func(g *leaseholdv1.Gateway) {
			g.Upstreams[0].Credential = &leaseholdv1.Credential{Kind: &leaseholdv1.Credential_Bearer{Bearer: &leaseholdv1.Secret{Set: true, Fingerprint: "f1"}}}
		}, true},
		"another secret": {func(g *leaseholdv1.Gateway) {
			g.Upstreams[0].Credential = &leaseholdv1.Credential{Kind: &leaseholdv1.Credential_Bearer{Bearer: secret("CANARY2", "f2")}}
		}, false},
		"a label": {func(g *leaseholdv1.Gateway) { g.Labels["b"] = "3" }, false},
		"the URL": {func(g *leaseholdv1.Gateway) { g.Upstreams[0].Url = "http://other" }, false},
	} {
		if got := g(c.change); (got == one) != c.same {
			t.Errorf("%s: the digest is the same: %v, want %v", name, got == one, c.same)
		}
	}
}
