package duplex

import (
	"slices"

	"github.com/leasehold/leasehold/dataplane/mcp"
)

// Bounds of what is held.
const (
	maxHeld      = 64
	maxHeldBytes = 1 << 20
)

// held is what the server sent while there was no stream to put it on. When it is
// full, the oldest notifications give way; requests never do.
type held struct {
	messages []*message
	size     int
}

// add holds a message. It returns the messages that had to give way, among them m
// itself if there was no room to make.
func (h *held) add(m *message) (out []*message) {
	for !h.fits(m) {
		oldest := -1
		if m.kind != mcp.KindRequest {
			oldest = slices.IndexFunc(h.messages, func(other *message) bool { return other.kind != mcp.KindRequest })
		}
		if oldest < 0 {
			return append(out, m)
		}
		out = append(out, h.messages[oldest])
		h.size -= len(h.messages[oldest].data)
		h.messages = slices.Delete(h.messages, oldest, oldest+1)
	}
	h.messages = append(h.messages, m)
	h.size += len(m.data)
	return out
}

func (h *held) fits(m *message) bool {
	return len(h.messages) < maxHeld && h.size+len(m.data) <= maxHeldBytes
}

// take empties it.
func (h *held) take() []*message {
	all := h.messages
	*h = held{}
	return all
}
