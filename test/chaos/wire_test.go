package chaos

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/leasehold/leasehold/test/internal/client"
)

// patience is how long a client waits for an answer.
const patience = 30 * time.Second

// outcome is what became of a request, from the client's side.
type outcome string

// The outcomes of a request.
const (
	answered    outcome = "answered"
	unknown     outcome = "outcome unknown"   // code 5040
	unavailable outcome = "unavailable"       // 503 with Retry-After: not carried out
	failed      outcome = "upstream failed"   // 502 with code 5020: not carried out
	gone        outcome = "session not found" // 404: not carried out
	invalid     outcome = "refused as wrong"  // -32600: not carried out
	refused     outcome = "connection refused"
	broken      outcome = "connection broke"
	late        outcome = "no answer in time"
	wrong       outcome = "wrong answer"
)

// answer is an HTTP answer, read to its end.
type answer struct {
	outcome outcome
	status  int
	header  http.Header
	reply   client.Envelope   // the response to the request
	others  []json.RawMessage // what else came on its stream
	err     error             // more about an outcome that is not answered
}

// keepAlive returns an HTTP client that keeps its connections and never sends a
// request a second time by itself.
func keepAlive() *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1 << 14, IdleConnTimeout: time.Minute}}
}

// post sends one message of a session and reads the answer to its end.
func post(ctx context.Context, hc *http.Client, url string, header http.Header, id, body string) answer {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return answer{outcome: wrong, err: err}
	}
	req.GetBody = nil // without it net/http cannot send the body again
	req.Header = header.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json, text/event-stream")
	resp, err := hc.Do(req)
	if err != nil {
		return answer{outcome: breakage(err), err: err}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	a := answer{status: resp.StatusCode, header: resp.Header}
	if err == nil || len(text) > 0 {
		a.read(text, id)
	}
	if err != nil && a.outcome != answered && a.outcome != unknown {
		a.outcome, a.err = breakage(err), err
	}
	return a
}

// breakage says how a request ended that has no answer.
func breakage(err error) outcome {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused
	case errors.Is(err, context.DeadlineExceeded):
		return late
	}
	return broken
}

// read takes an answer's body apart.
func (a *answer) read(body []byte, id string) {
	messages := [][]byte{body}
	if strings.HasPrefix(a.header.Get("Content-Type"), "text/event-stream") {
		messages = events(body)
	}
	found := false
	for _, message := range messages {
		var e client.Envelope
		if err := json.Unmarshal(message, &e); err != nil {
			a.outcome, a.err = wrong, fmt.Errorf("status %d, body %.200q: %w", a.status, body, err)
			return
		}
		if e.Result == nil && e.Error == nil {
			a.others = append(a.others, message)
			continue
		}
		found, a.reply = true, e
	}
	if !found {
		a.outcome, a.err = broken, fmt.Errorf("status %d, the stream ended without an answer", a.status)
		return
	}
	a.judge(id)
}

// events takes the data out of an event stream; a part of an event at its end
// does not count, nor does an event that only has an id.
func events(stream []byte) [][]byte {
	var list [][]byte
	whole := stream[:bytes.LastIndex(stream, []byte("\n\n"))+1]
	for line := range bytes.Lines(whole) {
		if data, ok := bytes.CutPrefix(line, []byte("data:")); ok && len(bytes.TrimSpace(data)) > 0 {
			list = append(list, bytes.TrimSpace(data))
		}
	}
	return list
}

// judge decides what an answer means.
func (a *answer) judge(id string) {
	if got := string(a.reply.ID); got != id {
		a.outcome, a.err = wrong, fmt.Errorf("status %d, the answer has id %s, the request %s: %v", a.status, got, id, a.reply.Error)
		return
	}
	code := 0
	if e := a.reply.Error; e != nil {
		code, a.err = e.Code, fmt.Errorf("status %d, error %d: %s", a.status, e.Code, e.Message)
	}
	switch {
	case a.status == 200 && code == 0:
		a.outcome = answered
	case a.status == 200 && code == 5040:
		a.outcome = unknown
	case a.status == 503 && code == 5031 && a.header.Get("Retry-After") != "":
		a.outcome = unavailable
	case a.status == 502 && code == 5020:
		a.outcome = failed
	case a.status == 404 && code == -32001:
		a.outcome = gone
	case code == -32600:
		a.outcome = invalid
	default:
		a.outcome = wrong
	}
}

// text is the text of a tool's result.
func (a *answer) text() (string, error) {
	var result struct {
		Content []struct {
			Text string `json:"text"`
		} `json:"content"`
	}
	if err := json.Unmarshal(a.reply.Result, &result); err != nil || len(result.Content) != 1 {
		return "", fmt.Errorf("result %.200q is not one text: %w", a.reply.Result, err)
	}
	return result.Content[0].Text, nil
}

// event is one event of a stream, as far as a client minds it.
type event struct {
	data  []byte
	id    *string
	retry time.Duration // 0 without
}

// eachEvent calls f with every event of a stream until it ends. An event that the
// end cuts off does not count.
func eachEvent(stream io.Reader, f func(event)) error {
	lines, e := bufio.NewReader(stream), event{}
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return err
		}
		name, value, _ := strings.Cut(strings.TrimRight(string(line), "\r\n"), ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case len(bytes.TrimSpace(line)) == 0:
			f(e)
			e = event{}
		case name == "data":
			e.data = append(e.data, value...)
		case name == "id":
			e.id = &value
		case name == "retry":
			ms, _ := strconv.Atoi(value)
			e.retry = time.Duration(ms) * time.Millisecond
		}
	}
}
