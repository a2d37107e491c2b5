package session

// Pinned returns how many of the sessions end with this worker. It looks at each.
func (t *Table) Pinned() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	pinned := 0
	for _, s := range t.sessions {
		if s.connected || s.upstream != nil && s.upstream.Pinned() {
			pinned++
		}
	}
	return pinned
}
