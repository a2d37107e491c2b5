// Package volley sends thousands of HTTP requests at once from a process of its
// own: a test that runs under the race detector can neither bear as many goroutines
// nor leave the machine enough time for what it tests.
package volley

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
)

// Request is one HTTP request; a POST.
type Request struct {
	// URL is where it goes, over plain HTTP.
	URL string `json:"url"`
	// Header are its header fields, but for those that any request has.
	Header map[string]string `json:"header"`
	// Body is its body.
	Body string `json:"body"`
}

// Answer is what became of a request.
type Answer struct {
	// Index is the request's place in its volley.
	Index int `json:"index"`
	// Begin is when the connection was asked for, End when all of the answer was there.
	Begin time.Time `json:"begin"`
	End   time.Time `json:"end"`
	// Status is the answer's status code, 0 if there was no answer.
	Status int `json:"status,omitempty"`
	// Header are the answer's header fields, the first value of each.
	Header map[string]string `json:"header,omitempty"`
	// Body is the answer's body as far as it came.
	Body string `json:"body,omitempty"`
	// Failure is why the answer is not whole.
	Failure string `json:"failure,omitempty"`
}

// Volley is requests in the hands of another process.
type Volley struct {
	cmd    *exec.Cmd
	in     io.Closer
	answer *json.Decoder
	n      int
}

// Load hands requests to a process that waits for Fire. Each request is given
// patience for its answer. The process ends with ctx.
func Load(ctx context.Context, requests []Request, patience time.Duration) (*Volley, error) {
	path, err := cluster.Program("test/internal/volleyd", false)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, "--patience", patience.String())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start volleyd: %w", err)
	}
	v := &Volley{cmd: cmd, in: in, answer: json.NewDecoder(out), n: len(requests)}
	if err := v.hand(in, requests); err != nil {
		return nil, errors.Join(fmt.Errorf("hand %d requests to volleyd: %w", v.n, err), cmd.Cancel(), cmd.Wait())
	}
	return v, nil
}

// hand returns once the process has the requests.
func (v *Volley) hand(in io.Writer, requests []Request) error {
	if err := json.NewEncoder(in).Encode(requests); err != nil {
		return err
	}
	var loaded int
	if err := v.answer.Decode(&loaded); err != nil {
		return err
	}
	if loaded != v.n {
		return fmt.Errorf("it has %d of them", loaded)
	}
	return nil
}

// Fire has all requests sent at once and returns their answers in the order of
// the requests when the last one is there.
func (v *Volley) Fire() ([]Answer, error) {
	if err := v.in.Close(); err != nil {
		return nil, err
	}
	answers := make([]Answer, v.n)
	for range v.n {
		var a Answer
		if err := v.answer.Decode(&a); err != nil {
			return nil, errors.Join(fmt.Errorf("read answers: %w", err), v.cmd.Wait())
		}
		answers[a.Index] = a
	}
	return answers, v.cmd.Wait()
}
