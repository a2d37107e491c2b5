package keycheck

import (
	"context"
	"encoding/binary"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/leasehold/leasehold/dataplane/config"
)

// plane answers questions for the newest ring.
type plane struct {
	*Checker
	world     *config.Holder
	questions atomic.Int32
	newest    int64
	err       error
	during    func() // called within a question
}

// begin runs a Checker whose worker knows the ring of revision 1, until the test's end.
func begin(t *testing.T) *plane {
	p := &plane{newest: 1, world: &config.Holder{}, during: func() {}}
	p.world.Set(&config.Snapshot{RingRevision: 1})
	p.Checker = New(Config{World: p.world, Logger: hclog.NewNullLogger(), Newest: func(context.Context) (int64, error) {
		p.questions.Add(1)
		newest := p.newest
		p.during()
		return newest, p.err
	}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return p
}

// missing asks for a key and lets the answer come, if it comes at once.
func (p *plane) missing(key byte) bool {
	defer synctest.Wait()
	return p.Missing(p.world.Load(), [4]byte{key})
}

// pass lets time pass in which whatever is asked for is asked and answered.
func pass() {
	time.Sleep(2*askEvery + time.Millisecond)
	synctest.Wait()
}

func TestKeyIsMissingOnlyOnceTheNewestRingIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := begin(t)
		p.newest = 2
		for range 3 {
			if p.missing(7) {
				t.Error("a key is said not to exist though there is a ring that is not here")
			}
			pass()
		}
		p.world.Set(&config.Snapshot{RingRevision: 2})
		if p.missing(7) {
			t.Error("a key is said not to exist before anybody was asked with the ring that is here now")
		}
		pass()
		if !p.missing(7) {
			t.Error("a key that is not in the newest ring is not said to be missing")
		}
	})
}

func TestNothingIsCertainWithoutTheControlPlane(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := begin(t)
		p.err = errors.New("away")
		for range 10 {
			if p.missing(7) {
				t.Fatal("a key is said not to exist though nobody could be asked")
			}
			pass()
		}
		p.err = nil
		p.missing(7)
		pass()
		if !p.missing(7) {
			t.Error("once the control plane answers, the key is not said to be missing")
		}
	})
}

// What is asked for while a question is on its way may be of a ring that is newer than
// the answer.
func TestAnAnswerIsForKeysThatCameBeforeItsQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := begin(t)
		p.during = func() {
			p.during = func() {}
			p.Missing(p.world.Load(), [4]byte{8})
		}
		p.missing(7) // is asked for at once
		if !p.missing(7) || p.missing(8) {
			t.Error("want the one that came before the question missing, and the one that came after it not yet")
		}
	})
}

func TestMissingKeysOfAnOlderRingAreAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := begin(t)
		p.missing(7)
		pass()
		if !p.missing(7) {
			t.Fatal("not missing")
		}
		p.newest = 2
		p.world.Set(&config.Snapshot{RingRevision: 2})
		if p.missing(7) {
			t.Error("what was missing in one ring is said to be missing in the next")
		}
	})
}

func TestForgedIDsCostOneQuestionASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := begin(t)
		const seconds, perSecond = 20, 5000
		for i := range uint32(seconds * perSecond) {
			var key [4]byte
			binary.BigEndian.PutUint32(key[:], i)
			p.Missing(p.world.Load(), key)
			if i%(perSecond/10) == 0 {
				time.Sleep(time.Second / 10)
			}
		}
		synctest.Wait()
		questions := p.questions.Load()
		if questions > seconds+1 || questions < seconds-1 {
			t.Errorf("%d questions in %d s, want one a second", questions, seconds)
		}
		p.mu.Lock()
		asked, missing := len(p.Checker.asked), len(p.Checker.missing)
		p.mu.Unlock()
		if asked > maxAsked || missing > maxMissing {
			t.Errorf("%d keys asked for and %d remembered, want at most %d and %d", asked, missing, maxAsked, maxMissing)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if p.questions.Load() > questions+1 {
			t.Error("it asks on though nobody wants to know")
		}
	})
}
