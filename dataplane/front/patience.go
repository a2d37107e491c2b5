package front

import (
	"net/http"
	"time"
)

// stall is how long a client may take nothing of an answer before its connection
// is cut. There is no bound on how long an answer takes as a whole.
const stall = time.Minute

// patient is an answer to a client that may stop reading. Without a bound such a
// client would hold on to its session's resources, and to its end, for as long as
// its connection lasts.
type patient struct {
	http.ResponseWriter
	control *http.ResponseController
	stall   time.Duration
	guarded bool // a deadline was set
}

func newPatient(w http.ResponseWriter, stall time.Duration) *patient {
	return &patient{ResponseWriter: w, control: http.NewResponseController(w), stall: stall}
}

// Write implements http.ResponseWriter. What fits the buffers of a connection
// that just began needs no guard, and most answers do.
func (p *patient) Write(b []byte) (int, error) {
	if p.guarded || len(b) > 4<<10 {
		p.guard()
	}
	return p.ResponseWriter.Write(b)
}

// Flush implements http.Flusher.
func (p *patient) Flush() {
	p.guard()
	p.control.Flush() // an error shows at the next Write
}

// guard gives the client another while. Only test recorders do not support it.
func (p *patient) guard() {
	p.guarded = true
	p.control.SetWriteDeadline(time.Now().Add(p.stall))
}

// done frees the connection for its next request.
func (p *patient) done() {
	if p.guarded {
		p.control.SetWriteDeadline(time.Time{})
	}
}
