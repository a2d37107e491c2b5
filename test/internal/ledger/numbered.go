package ledger

import (
	"fmt"
	"net/http"
	"strconv"
)

// Numbered is what a URL of the server ends with if the GET streams of sessions that
// are opened there are to have event ids: 1, 2, 3 and so on in each session. Such a
// stream begins with an event that has an id and no data; with Last-Event-ID it goes
// on after that event, with what was said while nobody listened.
const Numbered = "?numbered"

// kept is how many events of a session's numbered stream are remembered.
const kept = 1024

// spoken is what a session said on its GET stream, the newest kept events of it.
type spoken struct {
	events [][]byte
	last   int           // the number of the newest
	more   chan struct{} // closed when the next one comes
}

// say adds an event.
func (s *session) say(event []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spoken.last++
	s.spoken.events = append(s.spoken.events, event)
	if over := len(s.spoken.events) - kept; over > 0 {
		s.spoken.events = s.spoken.events[over:]
	}
	close(s.spoken.more)
	s.spoken.more = make(chan struct{})
}

// after returns the events that follow a number, and what is closed when there are
// more of them; false if some of them are forgotten, or the number is none yet.
func (s *session) after(number int) (events [][]byte, more <-chan struct{}, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.spoken.last - number
	if n < 0 || n > len(s.spoken.events) {
		return nil, nil, false
	}
	return s.spoken.events[len(s.spoken.events)-n:], s.spoken.more, true
}

// numbered serves a GET stream with event ids.
func (x *exchange) numbered(s *session) {
	number, err := s.resumeAt(x.r.Header.Get("Last-Event-ID"))
	events, more, ok := s.after(number)
	if err != nil || !ok {
		x.fail(http.StatusBadRequest, -32000, "the events after that id are not there")
		return
	}
	x.beginEvents()
	fmt.Fprintf(x.w, "id: %d\ndata:\n\n", number)
	for {
		for _, event := range events {
			number++
			fmt.Fprintf(x.w, "id: %d\n", number)
			x.event(event)
		}
		http.NewResponseController(x.w).Flush()
		select {
		case <-more:
		case <-s.done:
			return
		case <-x.r.Context().Done():
			return
		}
		if events, more, ok = s.after(number); !ok {
			return // the client reads too slowly
		}
	}
}

// resumeAt is the number after which a stream goes on; without an id, the newest.
func (s *session) resumeAt(id string) (int, error) {
	if id != "" {
		return strconv.Atoi(id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.spoken.last, nil
}
