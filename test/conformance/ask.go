package conformance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"
)

// askLimit is how long a server may take to answer a probe's request.
const askLimit = 10 * time.Second

// asker sends requests to one server, by one way.
type asker struct {
	client *http.Client
	url    string
	slow   string   // the params of a tool call that says something before it is done
	opened []string // sessions that end closes
}

// answer is what a server said to a request.
type answer struct {
	status int
	// kind is the class of the content type: json, sse, text, or none for an empty
	// body.
	kind string
	// messages are the results and error codes of the JSON-RPC responses in it.
	messages []string
	// session is the session id that came with it.
	session string
	// events and numbered count the server-sent events, and those with an id;
	// primed says that the first one had an id and no data.
	events, numbered int
	primed           bool
}

// String returns the status, the kind and the messages.
func (a answer) String() string {
	return strings.TrimSpace(fmt.Sprintf("%d %s %s", a.status, a.kind, strings.Join(a.messages, ",")))
}

// header are the header fields of a request; an empty value leaves one out.
type header map[string]string

// jsonHeader returns the header of a POST request in a session, which may be
// empty, with some fields changed.
func jsonHeader(session, version string, changes header) header {
	h := header{
		"Content-Type": "application/json", "Accept": "application/json, text/event-stream",
		"Mcp-Session-Id": session, "Mcp-Protocol-Version": version,
	}
	maps.Copy(h, changes)
	return h
}

// do sends a request and reads the head of the answer. The caller closes the body.
func (a *asker) do(ctx context.Context, method, body string, h header) (*http.Response, error) {
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.url, reader)
	if err != nil {
		return nil, err
	}
	for _, key := range slices.Sorted(maps.Keys(h)) {
		switch {
		case key == "Host":
			req.Host = h[key]
		case h[key] != "":
			req.Header.Set(key, h[key])
		}
	}
	return a.client.Do(req)
}

// ask sends a request and reads the answer to its end, or a stream until it has
// as many responses as the request wants.
func (a *asker) ask(ctx context.Context, method, body string, h header) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	resp, err := a.do(ctx, method, body, h)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	got := head(resp)
	if got.kind == "sse" {
		err = got.readStream(resp.Body, max(1, strings.Count(body, `"id":`)))
	} else {
		err = got.readBody(resp.Body)
	}
	return got, err
}

// listen opens a stream for what the server says by itself, and keeps it open
// until close.
func (a *asker) listen(ctx context.Context, h header) (got answer, closeStream func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	timer := time.AfterFunc(askLimit, cancel) // for the head alone
	resp, err := a.do(ctx, http.MethodGet, "", h)
	if err != nil {
		cancel()
		return answer{}, nil, err
	}
	timer.Stop()
	closeStream = func() { cancel(); resp.Body.Close() }
	if got = head(resp); got.kind != "sse" {
		err = got.readBody(resp.Body)
	}
	return got, closeStream, err
}

// head returns what the head of an answer says.
func head(resp *http.Response) answer {
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	got := answer{status: resp.StatusCode, session: resp.Header.Get("Mcp-Session-Id")}
	switch kind {
	case "application/json":
		got.kind = "json"
	case "text/event-stream":
		got.kind = "sse"
	default:
		got.kind = "text"
	}
	return got
}

// readBody reads an answer that is not a stream.
func (a *answer) readBody(r io.Reader) error {
	body, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(body)) == 0 {
		a.kind = "none"
		return nil
	}
	if a.kind == "json" {
		a.add(body)
	}
	return nil
}

// readStream reads events until there were so many responses, or the end.
func (a *answer) readStream(r io.Reader, want int) error {
	return readEvents(r, func(id, data string) bool {
		a.event(id, data)
		return len(a.messages) < want
	})
}

// readEvents calls f with the id and the data of each event, which are empty if
// it has none, until f returns false or the stream ends.
func readEvents(r io.Reader, f func(id, data string) bool) error {
	lines := bufio.NewReader(r)
	var id, data string
	for {
		line, err := lines.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		field, value, found := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
		switch value = strings.TrimPrefix(value, " "); {
		case field == "id":
			id = value
		case field == "data":
			data += value
		case field == "" && !found: // a blank line; with a colon it is a comment
			if !f(id, data) {
				return nil
			}
			id, data = "", ""
		}
	}
}

// event adds an event.
func (a *answer) event(id, data string) {
	a.primed = a.primed || a.events == 0 && id != "" && data == ""
	a.events++
	if id != "" {
		a.numbered++
	}
	if data != "" {
		a.add([]byte(data))
	}
}

// add adds the responses of a message, or of a batch.
func (a *answer) add(text []byte) {
	type message struct {
		Result json.RawMessage `json:"result"`
		Error  *struct {
			Code int `json:"code"`
		} `json:"error"`
	}
	var all []message
	var one message
	if json.Unmarshal(text, &all) != nil {
		if json.Unmarshal(text, &one) != nil {
			a.messages = append(a.messages, "malformed")
			return
		}
		all = []message{one}
	}
	for _, m := range all {
		switch {
		case m.Error != nil:
			a.messages = append(a.messages, fmt.Sprint(m.Error.Code))
		case m.Result != nil:
			a.messages = append(a.messages, "result")
		}
	}
}

// open opens a session and returns its id and what initialize was answered.
func (a *asker) open(ctx context.Context, version string) (string, answer, error) {
	got, err := a.ask(ctx, http.MethodPost, initializeBody(version), jsonHeader("", "", nil))
	if err != nil {
		return "", got, fmt.Errorf("initialize: %w", err)
	}
	if got.status != http.StatusOK || got.session == "" {
		return "", got, fmt.Errorf("initialize: %v with session %q", got, got.session)
	}
	a.opened = append(a.opened, got.session)
	done, err := a.ask(ctx, http.MethodPost, `{"jsonrpc":"2.0","method":"notifications/initialized"}`, jsonHeader(got.session, version, nil))
	if err == nil && done.status != http.StatusAccepted {
		err = fmt.Errorf("notifications/initialized: %v", done)
	}
	return got.session, got, err
}

// end ends the sessions that were opened.
func (a *asker) end(ctx context.Context) {
	for _, session := range a.opened {
		if resp, err := a.do(ctx, http.MethodDelete, "", header{"Mcp-Session-Id": session}); err == nil {
			resp.Body.Close()
		}
	}
	a.opened = nil
}

// initializeBody is the body of an initialize request.
func initializeBody(version string) string {
	return `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"` + version +
		`","capabilities":{},"clientInfo":{"name":"probe","version":"1"}}}`
}
