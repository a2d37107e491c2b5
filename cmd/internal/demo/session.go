package demo

import (
	"crypto/rand"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/mark3labs/mcp-go/mcp"
)

// errUnknown makes mcp-go answer 404.
var errUnknown = errors.New("unknown session")

// session is what the server keeps of one session.
type session struct {
	id           string
	counter      atomic.Int64
	capabilities atomic.Pointer[mcp.ClientCapabilities]
	subscribed   atomic.Bool            // to demo://counter
	listening    atomic.Pointer[stream] // the stream of the client's GET
}

// sessions are the sessions that are open. It is mcp-go's session id manager:
// the ones that come with it accept any id of the right form, or report ids
// that were ended in the same way as ids that are open. Here an id that is not
// open is answered with 404, as the protocol has it.
type sessions struct {
	mu   sync.Mutex
	open map[string]*session // guarded by mu
}

func newSessions() *sessions { return &sessions{open: map[string]*session{}} }

// Generate opens a session.
func (s *sessions) Generate() string {
	opened := &session{id: "demo-" + rand.Text()}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[opened.id] = opened
	return opened.id
}

// Validate says whether a session is open.
func (s *sessions) Validate(id string) (terminated bool, err error) {
	if s.get(id) == nil {
		return false, errUnknown
	}
	return false, nil
}

// Terminate ends a session. Ending one that is not open is not an error.
func (s *sessions) Terminate(id string) (notAllowed bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, id)
	return false, nil
}

func (s *sessions) get(id string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.open[id]
}

func (s *sessions) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}
