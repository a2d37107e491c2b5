package inspect

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// maxError bounds why a step failed.
const maxError = 512

// steps takes down what is done, one thing at a time. The steps of a connection are
// noted as the trace of its context tells them, from whichever goroutine; one that is
// made several times is one step. It is safe for concurrent use.
type steps struct {
	mu      sync.Mutex // guards what follows
	all     []*leaseholdv1.InspectionStep
	current *leaseholdv1.InspectionStep
	began   time.Time
	open    bool // the session is, or will not be: connections are no steps any more
}

// newSteps begins with the first step that is made towards u.
func newSteps(u *config.Upstream) *steps {
	s := &steps{}
	switch {
	case u.Program != nil:
		s.enter(stepStart)
	case u.Credential != nil || u.TLS != nil:
		s.enter(stepCredential)
	default:
		s.enter(stepResolve)
	}
	return s
}

// enter ends the step that goes on and begins one, or goes on with it.
func (s *steps) enter(kind leaseholdv1.InspectionStepKind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.enterLocked(kind)
}

func (s *steps) enterLocked(kind leaseholdv1.InspectionStepKind) {
	s.pauseLocked()
	for _, step := range s.all {
		if step.Kind == kind {
			s.current = step
			return
		}
	}
	s.current = &leaseholdv1.InspectionStep{Kind: kind, Duration: &durationpb.Duration{}}
	s.all = append(s.all, s.current)
}

// pauseLocked puts down how long the step took until now.
func (s *steps) pauseLocked() {
	now := time.Now()
	if s.current != nil {
		s.current.Duration = durationpb.New(s.current.Duration.AsDuration() + now.Sub(s.began))
	}
	s.began = now
}

// fail says why the step failed.
func (s *steps) fail(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current.Error = clip(why, maxError)
}

// note says what else the step came to.
func (s *steps) note(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current.Detail = clip(what, maxError)
}

// finish returns what was done.
func (s *steps) finish() []*leaseholdv1.InspectionStep {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pauseLocked()
	s.current = nil
	return s.all
}

// watch returns a context under which connections tell their steps.
func (s *steps) watch(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn:           func(string) { s.connecting(stepResolve) },
		ConnectStart:      func(string, string) { s.connecting(stepConnect) },
		TLSHandshakeStart: func() { s.connecting(stepTLS) },
		GotConn:           func(httptrace.GotConnInfo) { s.connecting(stepHTTP) },
	})
}

func (s *steps) connecting(kind leaseholdv1.InspectionStepKind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open && s.current != nil {
		s.enterLocked(kind)
	}
}

// begun notes that the server has taken initialize.
func (s *steps) begun() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.open {
		s.open = true
		s.enterLocked(stepInitialize)
	}
}

// settle says that nothing more is done to open the session.
func (s *steps) settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open = true
}

// opener makes requests, and notes when the first has a good answer.
type opener struct {
	session.Upstream
	steps *steps
}

// Do implements session.Upstream.
func (o opener) Do(ctx context.Context, d *session.Dispatch) (*http.Response, error) {
	answer, err := o.Upstream.Do(ctx, d)
	if err == nil && answer.StatusCode >= 200 && answer.StatusCode < 300 {
		o.steps.begun()
	}
	return answer, err
}

// Reason returns an error of an upstream in words for operators, in so many bytes at
// most. They have no secrets in them.
func Reason(err error, most int) string { return clip(reason(err), most) }

// reason returns an error in words for operators. Of an answer that is no HTTP nothing
// is repeated: it may be what the server was sent.
func reason(err error) string {
	text := strings.Replace(err.Error(), session.ErrNotSent.Error()+": ", "", 1)
	before, rest, parsing := strings.Cut(text, "read answer: ")
	var network net.Error
	switch {
	case !parsing, errors.As(err, &network), errors.Is(err, session.ErrSilent):
		return text
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return before + "the server closed the connection before it answered"
	case strings.HasPrefix(rest, "answer has more than "):
		return before + rest
	}
	return before + "what the server answered is no HTTP"
}

// clip bounds a text.
func clip(text string, most int) string {
	text = strings.ToValidUTF8(text, "?")
	if len(text) <= most {
		return text
	}
	const more = "…"
	return strings.ToValidUTF8(text[:most-len(more)], "") + more
}
