package route

import (
	"fmt"
	"sync"

	"github.com/leasehold/leasehold/dataplane/sessionid"
)

const (
	// maxWaiting bounds the requests that wait for an owner, all sessions together.
	maxWaiting = 4096
	// maxWaitingHere bounds those of one session.
	maxWaitingHere = 256
	// few requests that wait may all ask the control plane for themselves.
	few = 64
)

// waiting counts the requests that wait for an owner. Safe for concurrent use.
type waiting struct {
	mu  sync.Mutex // guards what follows
	all int
	of  map[sessionid.Digest]int
}

// many reports whether more wait than few.
func (w *waiting) many() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all > few
}

// bound is an error that says which bound on waiting requests is reached.
type bound struct {
	n    int
	what string
}

// Error names the bound.
func (b bound) Error() string {
	return fmt.Sprintf("%d requests %s wait for an owner, which is the bound", b.n, b.what)
}

// place is a request's place among those that wait. It is given back before the
// request is served: a stream may be served for hours.
type place struct {
	of      *waiting
	session sessionid.Digest
	held    bool
}

// take takes the place, if it is not held yet and there is one.
func (p *place) take() error {
	if p.held {
		return nil
	}
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	switch {
	case p.of.all >= maxWaiting:
		return bound{maxWaiting, "of this worker"}
	case p.of.of[p.session] >= maxWaitingHere:
		return bound{maxWaitingHere, "of this session"}
	}
	p.of.all++
	p.of.of[p.session]++
	p.held = true
	return nil
}

func (p *place) release() {
	if !p.held {
		return
	}
	p.held = false
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	p.of.all--
	if p.of.of[p.session]--; p.of.of[p.session] == 0 {
		delete(p.of.of, p.session)
	}
}
