package dataplane

import "sync"

// health reports changes of readiness, one at a time.
type health struct {
	mu     sync.Mutex // guards what follows and orders reports
	report func(error)
	told   bool
	last   string
	closed bool
}

// set reports err, nil for ready, unless that is what was reported last.
func (h *health) set(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	text := ""
	if err != nil {
		text = err.Error()
	}
	if h.report == nil || h.closed || h.told && h.last == text {
		return
	}
	h.told, h.last = true, text
	h.report(err)
}

// repeat has the next set reported, even if it says nothing new.
func (h *health) repeat() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told = false
}

// close reports err as the last word.
func (h *health) close(err error) {
	h.set(err)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
}
