package replay

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

func texts(events [][]byte) string {
	var s []string
	for _, e := range events {
		s = append(s, string(e))
	}
	return strings.Join(s, " ")
}

func TestALogGivesWhatFollowsANumber(t *testing.T) {
	s := NewStore(time.Now)
	l := s.New()
	if n := l.Next(); n != 1 {
		t.Errorf("number of the first event: got %d, want 1", n)
	}
	event := []byte("a")
	l.Append(event)
	event[0] = 'x' // the log has a copy
	l.Append([]byte("b"))
	l.Append([]byte("c"))
	for n, want := range map[uint64]string{0: "a b c", 1: "b c", 2: "c"} {
		if got, _, err := l.After(n); texts(got) != want || err != nil {
			t.Errorf("after %d: got %q and %v, want %q", n, texts(got), err, want)
		}
	}
	if _, _, err := l.After(4); !errors.Is(err, ErrGone) {
		t.Errorf("after a number that never was: got %v, want ErrGone", err)
	}
	_, more, err := l.After(3)
	if more == nil || err != nil {
		t.Fatalf("after the last one: got %v and %v, want a channel", more, err)
	}
	l.Append([]byte("d"))
	<-more
	if got, _, _ := l.After(3); texts(got) != "d" {
		t.Errorf("after 3: got %q, want d", texts(got))
	}
	_, more, _ = l.After(4)
	l.End()
	<-more
	if _, _, err := l.After(4); err != io.EOF {
		t.Errorf("after the end: got %v, want EOF", err)
	}
}

func TestALogForgetsItsOldestEventsBeyondItsBounds(t *testing.T) {
	s := NewStore(time.Now)
	many, large := s.New(), s.New()
	for i := range MaxEvents + 3 {
		many.Append(fmt.Append(nil, i))
	}
	for range 5 {
		large.Append(make([]byte, MaxBytes/4))
	}
	if _, _, err := many.After(2); !errors.Is(err, ErrGone) {
		t.Errorf("events that were forgotten: got %v, want ErrGone", err)
	}
	if got, _, err := many.After(3); len(got) != MaxEvents || err != nil {
		t.Errorf("got %d events and %v, want %d", len(got), err, MaxEvents)
	}
	if got, _, err := large.After(1); len(got) != 4 || err != nil {
		t.Errorf("got %d events and %v, want 4", len(got), err)
	}
}

func TestAStoreForgetsItsOldestLogsBeyondItsBound(t *testing.T) {
	s := NewStore(time.Now)
	first := s.New()
	first.Append([]byte("first"))
	_, more, _ := first.After(1)
	for range MaxTotal / MaxBytes {
		s.New().Append(make([]byte, MaxBytes))
	}
	<-more
	if _, _, err := first.After(0); !errors.Is(err, ErrGone) {
		t.Errorf("the oldest log: got %v, want ErrGone", err)
	}
	if got := s.Bytes(); got != MaxTotal {
		t.Errorf("the store has %d bytes, want %d", got, MaxTotal)
	}
	first.Append([]byte("late"))
	first.Drop()
	if got := s.Bytes(); got != MaxTotal {
		t.Errorf("after a late event the store has %d bytes, want %d", got, MaxTotal)
	}
}

func TestALogIsKeptForAWhileAfterItsEnd(t *testing.T) {
	now := time.Unix(0, 0)
	s := NewStore(func() time.Time { return now })
	open, ended := s.New(), s.New()
	open.Append([]byte("a"))
	ended.Append([]byte("b"))
	if _, due := s.Sweep(); due {
		t.Error("something is due though nothing has ended")
	}
	ended.End()
	now = now.Add(Keep - time.Second)
	ended.End() // again: the first one counts
	if next, due := s.Sweep(); !due || next != time.Second {
		t.Errorf("got %v %v, want to sweep in 1s", next, due)
	}
	now = now.Add(time.Second)
	if _, due := s.Sweep(); due {
		t.Error("something is due still")
	}
	if _, _, err := ended.After(0); !errors.Is(err, ErrGone) {
		t.Errorf("after its time: got %v, want ErrGone", err)
	}
	if got, _, err := open.After(0); texts(got) != "a" || err != nil {
		t.Errorf("a stream that goes on: got %q and %v, want a", texts(got), err)
	}
	if got := s.Bytes(); got != 1 {
		t.Errorf("the store has %d bytes, want 1", got)
	}
}

func TestTheNewestEventIsKeptHoweverLarge(t *testing.T) {
	s := NewStore(time.Now)
	l := s.New()
	l.Append([]byte("a"))
	l.Append(make([]byte, 2*MaxBytes))
	if got, _, err := l.After(1); len(got) != 1 || err != nil {
		t.Errorf("got %d events and %v, want the last one", len(got), err)
	}
}

func TestLogsThatHaveEndedGoBeforeThoseThatGoOn(t *testing.T) {
	s := NewStore(time.Now)
	open := s.New()
	open.Append([]byte("a"))
	for range MaxTotal/MaxBytes + 1 {
		l := s.New()
		l.Append(make([]byte, MaxBytes))
		l.End()
	}
	if got, _, err := open.After(0); texts(got) != "a" || err != nil {
		t.Errorf("a stream that goes on: got %q and %v, want a", texts(got), err)
	}
}

func BenchmarkSweepOfManyLogs(b *testing.B) {
	s := NewStore(time.Now)
	for range 30_000 {
		l := s.New()
		l.Append([]byte("a"))
		l.End()
	}
	for b.Loop() {
		s.Sweep()
	}
}
