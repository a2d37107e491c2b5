package control

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func newSuccession(dir, boot string) succession {
	return succession{dir: dir, boot: func() (string, error) { return boot, nil }}
}

func TestASuccessorOfTheSameBootFindsItsPredecessor(t *testing.T) {
	s := newSuccession(t.TempDir(), "boot-1")
	if _, err := s.predecessor(); !errors.Is(err, errNoPredecessor) {
		t.Errorf("empty directory: got %v, want no predecessor", err)
	}
	for i := range int64(2) { // the later one counts
		if err := s.leaveBehind("w", lease{incarnation: 7 + i, id: 70 + i}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := s.predecessor()
	if err != nil || got.Worker != "w" || got.Incarnation != 8 || got.Lease != 71 {
		t.Errorf("got %+v, %v; want the registration that was left behind last", got, err)
	}
	if _, err := newSuccession(s.dir, "boot-2").predecessor(); !errors.Is(err, errNoPredecessor) {
		t.Errorf("another boot: got %v, want no predecessor", err)
	}
	if err := errors.Join(s.forget(), s.forget()); err != nil {
		t.Errorf("forget: %v", err)
	}
	if _, err := s.predecessor(); !errors.Is(err, errNoPredecessor) {
		t.Errorf("forgotten: got %v, want no predecessor", err)
	}
}

func TestARegistrationInACopyOfItsDirectoryCountsForNothing(t *testing.T) {
	s, other := newSuccession(t.TempDir(), "boot-1"), newSuccession(t.TempDir(), "boot-1")
	if err := s.leaveBehind("w", lease{incarnation: 7}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(s.path())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(other.path(), text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := other.predecessor(); !errors.Is(err, errNoPredecessor) {
		t.Errorf("got %v, want no predecessor: the worker of the first directory may live", err)
	}
	moved := newSuccession(filepath.Join(t.TempDir(), "moved"), "boot-1")
	if err := os.Rename(s.dir, moved.dir); err != nil {
		t.Fatal(err)
	}
	if _, err := moved.predecessor(); err != nil {
		t.Errorf("a directory with another name: got %v, want its predecessor", err)
	}
}

func TestARegistrationIsReplacedAsAWhole(t *testing.T) {
	s := newSuccession(t.TempDir(), "boot-1")
	if err := s.leaveBehind("w", lease{incarnation: 7}); err != nil {
		t.Fatal(err)
	}
	before, err := os.Open(s.path())
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	if err := s.leaveBehind("w", lease{incarnation: 8}); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(before); err != nil || !strings.Contains(string(text), `"incarnation":7,`) {
		t.Errorf("the file that was there: got %q, %v; want it untouched, with another in its place", text, err)
	}
}

func TestAFileThatIsNoRegistrationIsNotActedOn(t *testing.T) {
	s := newSuccession(t.TempDir(), "boot-1")
	if err := s.leaveBehind("w", lease{incarnation: 7, id: 70}); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(s.path())
	if err != nil {
		t.Fatal(err)
	}
	foreign := []string{"{}", "null", "[]", "\x00\x00", `"` + strings.Repeat("x", 100) + `"`, string(whole) + string(whole)}
	for n := range len(whole) - 1 { // without the line's end it is whole
		foreign = append(foreign, string(whole[:n]))
	}
	for _, text := range foreign {
		if err := os.WriteFile(s.path(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if r, err := s.predecessor(); err == nil || errors.Is(err, errNoPredecessor) {
			t.Errorf("%q: got %+v, %v; want an error that says what is wrong", text, r, err)
		}
	}
}

func TestAWorkerFirstLeavesForItsPredecessorAndRecordsItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		b := newBubble(t, f)
		b.succession.boot = func() (string, error) { return "boot-1", nil }
		if err := b.succession.leaveBehind("w", lease{incarnation: 5, id: 50}); err != nil {
			t.Fatal(err)
		}
		recorded := make(chan registration, 1)
		b.cfg.Registered = func(int64, time.Duration) {
			r, _ := b.succession.predecessor()
			recorded <- r
		}
		b.run(t, func() {
			if r := <-recorded; r.Worker != b.cfg.Worker || r.Incarnation != 7 || r.Lease != 70 {
				t.Errorf("recorded when it may claim sessions: got %+v, want its own registration", r)
			}
		})
		if len(f.calls) < 2 || f.calls[0].method != "Leave" || f.calls[0].lease != 50 || f.calls[1].method != "Register" {
			t.Errorf("calls: got %v, want Leave for lease 50 and then Register", f.calls)
		}
		if err := b.Leave(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := b.succession.predecessor(); !errors.Is(err, errNoPredecessor) {
			t.Errorf("after Leave: got %v, want no predecessor", err)
		}
	})
}

func TestASlowLeaveForAPredecessorDelaysNoRegistrationAndIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &fake{}
		f.answer = func(ctx context.Context, method string) error {
			if method == "Leave" && len(f.got("Leave")) < 4 {
				<-ctx.Done()
				return errAway
			}
			return nil
		}
		b := newBubble(t, f)
		if err := b.succession.leaveBehind("w", lease{incarnation: 5, id: 50}); err != nil {
			t.Fatal(err)
		}
		b.run(t, func() {
			time.Sleep(headStart + time.Millisecond)
			if !b.Authority().Holds(7) {
				t.Errorf("not registered %v after the start", headStart)
			}
			time.Sleep(time.Minute)
		})
		if n := len(f.got("Leave")); n != 4 {
			t.Errorf("leaves: got %d, want 4, the last of which was answered", n)
		}
	})
}

func TestALeaveThatWasNotAnsweredLeavesTheRecordToASuccessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, &fake{answer: func(_ context.Context, method string) error {
			if method == "Leave" {
				return errAway
			}
			return nil
		}})
		b.run(t, func() { time.Sleep(time.Second) })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := b.Leave(ctx); err == nil {
			t.Error("Leave: got nil, want an error")
		}
		if r, err := b.succession.predecessor(); err != nil || r.Incarnation != 7 {
			t.Errorf("got %+v, %v; want the registration", r, err)
		}
	})
}

func TestAWorkerServesThoughItCannotRecordItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for what, broken := range map[string]func(*succession){
			"no directory": func(s *succession) { s.dir = filepath.Join(s.dir, "not", "there") },
			"no boot id":   func(s *succession) { s.boot = func() (string, error) { return "", errors.New("no /proc") } },
		} {
			f := &fake{}
			b := newBubble(t, f)
			broken(&b.succession)
			b.run(t, func() {
				time.Sleep(time.Second)
				if !b.Authority().Holds(7) {
					t.Errorf("%s: the worker does not serve", what)
				}
			})
			if n := len(f.got("Leave")); n != 0 {
				t.Errorf("%s: got %d leaves, want none", what, n)
			}
		}
	})
}

func TestTheBootIDStaysTheSame(t *testing.T) {
	first, err := bootID()
	if err != nil || first == "" {
		t.Fatalf("got %q, %v; want an id", first, err)
	}
	if again, err := bootID(); err != nil || again != first {
		t.Errorf("got %q, %v; want %q", again, err, first)
	}
}
