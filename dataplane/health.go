package dataplane

import "sync"

// health reports changes of readiness, one at a time.
type health struct {
	mu     sync.Mutex // guards told and orders reports
	report func(error)
	told   bool
	last   string
}

func (h *health) set(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	text := ""
	if err != nil {
		text = err.Error()
	}
	if h.report == nil || h.told && h.last == text {
		return
	}
	h.told, h.last = true, text
	h.report(err)
}
