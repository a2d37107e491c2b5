package dataplane_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// keyOf returns the id of the key that a session id is under.
func keyOf(tb testing.TB, session string) string {
	tb.Helper()
	sealed, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(session, "lh1."))
	if err != nil {
		tb.Fatal(err)
	}
	return string(sealed[:4])
}

// under returns a client whose session is under the numbered key, which is the one that
// the worker seals with soon.
func under(tb testing.TB, w *worker, gateway string, number byte) *client {
	tb.Helper()
	c := newClient(tb, gateway)
	eventually(tb, "the worker seals with the key", func() bool {
		c.session = ""
		c.initialize(w)
		return keyOf(tb, c.session) == string(sessionKey(number).Id)
	})
	return c
}

// refusedForNow reports whether a call gets 503 and a time to come back.
func (c *client) refusedForNow(w *worker) bool {
	c.tb.Helper()
	resp, _ := c.do(w, http.MethodPost, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"n"}}`)
	return resp != nil && resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != ""
}

func TestIDUnderAKeyThatIsNotKnownHereYetIsNeverNotFound(t *testing.T) {
	t.Parallel()
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	prompt, lagging := startWorker(t, p), startWorker(t, p)
	old := newClient(t, "g")
	old.initialize(prompt)
	p.change(func() { p.mute = map[string]bool{lagging.id: true} })
	p.setRing(1, 2) // which the control plane does not do while a worker lags
	c := under(t, prompt, "g", 2)
	asked := p.count("GetKeyRingRevision")
	eventually(t, "the worker has asked for the ring several times", func() bool {
		if !c.refusedForNow(lagging) {
			t.Fatal("an id under a key that this worker has not heard of is not answered with 503 and Retry-After")
		}
		return p.count("GetKeyRingRevision") >= asked+3
	})
	p.change(func() { p.mute = nil })
	eventually(t, "the id is served once the ring is here", func() bool {
		status, body := c.call(lagging)
		if status != http.StatusOK && status != http.StatusServiceUnavailable {
			t.Fatalf("got %d %s, want 503 until the ring is here, and then 200", status, body)
		}
		return status == http.StatusOK
	})
	for _, session := range []*client{old, c} {
		for _, w := range []*worker{prompt, lagging} {
			if status, body := session.call(w); status != http.StatusOK {
				t.Errorf("a session under %s: got %d %s, want 200 at both workers", keyOf(t, session.session), status, body)
			}
		}
	}
}

func TestIDUnderAKeyThatWasRemovedIsNotFoundOnceTheRingIsKnownToBeTheNewest(t *testing.T) {
	t.Parallel()
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	w := startWorker(t, p)
	old := newClient(t, "g")
	old.initialize(w)
	legacy := connectLegacy(t, w, "g")
	p.setRing(2)
	under(t, w, "g", 2)
	if !old.refusedForNow(w) {
		t.Error("an id under an unknown key is not 503 at first")
	}
	post := func() int {
		resp, _ := send(t, w, http.MethodPost, legacy.endpoint, `{"jsonrpc":"2.0","id":1,"method":"ping"}`, nil)
		return resp.StatusCode
	}
	eventually(t, "a removed key's ids are not found", func() bool {
		status, _ := old.call(w)
		return status == http.StatusNotFound && post() == http.StatusNotFound
	})
}

func TestIDUnderAnUnknownKeyIsNotDeniedWithoutTheControlPlane(t *testing.T) {
	t.Parallel()
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	c.session = "lh1.AAAA" + c.session[8:]
	p.change(func() { p.dark = true })
	for end := time.Now().Add(2500 * time.Millisecond); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if !c.refusedForNow(w) {
			t.Fatal("without the control plane an id under an unknown key is not answered with 503 and Retry-After")
		}
	}
	p.change(func() { p.dark = false })
	eventually(t, "the id is not found once the control plane is back", func() bool {
		status, _ := c.call(w)
		return status == http.StatusNotFound
	})
}

func TestForgedKeysCostTheControlPlaneOneQuestionASecond(t *testing.T) {
	t.Parallel()
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	w := startWorker(t, p)
	served := newClient(t, "g")
	served.initialize(w)
	before, began := p.count("GetKeyRingRevision"), time.Now()
	resolved := p.count("Resolve")
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			c := newClient(t, "g")
			for n := range 200 {
				c.session = fmt.Sprintf("lh1.%d%03d", i, n) + served.session[8:]
				if status, body := c.call(w); status != http.StatusServiceUnavailable && status != http.StatusNotFound {
					t.Errorf("a forged id: got %d %s, want 503 or 404", status, body)
				}
			}
		})
	}
	group.Wait()
	if asked, most := p.count("GetKeyRingRevision")-before, int(time.Since(began)/time.Second)+2; asked < 1 || asked > most {
		t.Errorf("1600 forged ids in %s made %d questions, want 1 to %d", time.Since(began), asked, most)
	}
	if n := p.count("Resolve") - resolved; n != 0 {
		t.Errorf("forged ids had %d sessions looked for, want none", n)
	}
	if status, body := served.call(w); status != http.StatusOK {
		t.Errorf("the session that exists: got %d %s, want 200", status, body)
	}
}
