package pairs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// packagesDir has the packages of the TypeScript SDK and server-everything.
const packagesDir = "../e2e/ts"

// script is a process with one of the clients of the TypeScript SDK, which has
// any number of sessions.
type script struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it says nothing more

	mu       sync.Mutex // guards all below
	in       io.WriteCloser
	next     int
	waiting  map[int]*deed
	sessions map[string]*scriptSession
	troubles []string
}

// deed is something that a script was told to do.
type deed struct {
	progress func()
	answer   chan said
}

// said is a line that a script says.
type said struct {
	ID       int             `json:"id"`
	Session  string          `json:"session"`
	Result   json.RawMessage `json:"result"`
	Error    string          `json:"error"`
	Progress bool            `json:"progress"`
	Updated  string          `json:"updated"`
	Told     string          `json:"told"`
	Trouble  string          `json:"trouble"`
}

// startScript starts a script with one of the clients: sdk or client.
func startScript(which string) (*script, error) {
	path, err := filepath.Abs("js/client.mjs")
	if err != nil {
		return nil, err
	}
	s := &script{cmd: exec.Command("node", path, which), done: make(chan struct{}), waiting: map[int]*deed{}, sessions: map[string]*scriptSession{}}
	s.cmd.Dir, s.cmd.Stderr = packagesDir, os.Stderr
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go s.listen(out)
	return s, nil
}

// stop ends the script.
func (s *script) stop() error {
	s.in.Close()
	<-s.done
	return s.cmd.Wait()
}

// listen passes on what the script says.
func (s *script) listen(out io.Reader) {
	defer close(s.done)
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line said
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			line.Trouble = fmt.Sprintf("says %.200q: %v", lines.Text(), err)
		}
		s.hear(line)
	}
}

// hear passes on one thing that the script says.
func (s *script) hear(line said) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch d, owner := s.waiting[line.ID], s.sessions[line.Session]; {
	case line.Trouble != "":
		s.troubles = append(s.troubles, line.Session+": "+line.Trouble)
	case line.Updated != "" && owner != nil:
		heard(owner.updated, line.Updated)
		owner.told.add("updated " + line.Updated)
	case line.Told != "" && owner != nil:
		owner.told.add(line.Told)
	case d != nil && line.Progress:
		d.progress()
	case d != nil:
		delete(s.waiting, line.ID)
		d.answer <- line
	}
}

// tell tells the script something.
func (s *script) tell(order map[string]any) error {
	line, err := json.Marshal(order)
	if err != nil {
		return err
	}
	_, err = s.in.Write(append(line, '\n'))
	return err
}

// do has the script do something and decodes what came of it.
func (s *script) do(ctx context.Context, what string, order map[string]any, progress func(), result any) error {
	d := &deed{progress, make(chan said, 1)}
	s.mu.Lock()
	s.next++
	id := s.next
	s.waiting[id] = d
	order["id"], order["deed"] = id, what
	err := s.tell(order)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case answer := <-d.answer:
		return answer.decode(result)
	case <-s.done:
		return errors.New("the script has ended")
	case <-ctx.Done():
	}
	s.mu.Lock()
	err = s.tell(map[string]any{"id": id, "deed": "cancel"})
	s.mu.Unlock()
	if err != nil || what != "call" {
		return errors.Join(ctx.Err(), err)
	}
	select {
	case answer := <-d.answer:
		return answer.decode(result)
	case <-s.done:
		return errors.New("the script has ended")
	}
}

// decode decodes a result.
func (a said) decode(result any) error {
	if a.Error != "" {
		return errors.New(a.Error)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(a.Result, result)
}

// scriptSession is a session of a script.
type scriptSession struct {
	script  *script
	key     string
	updated chan string
	told    told
}

// connect opens a session.
func (s *script) connect(ctx context.Context, to target) (session, greeting, error) {
	s.mu.Lock()
	key := fmt.Sprintf("%d at %s", len(s.sessions)+1, to.URL)
	opened := &scriptSession{script: s, key: key, updated: make(chan string, updates)}
	s.sessions[key] = opened
	s.mu.Unlock()
	mode := "auto"
	if to.legacy {
		mode = "legacy"
	}
	var hello greeting
	err := s.do(ctx, "connect", map[string]any{"session": key, "server": to, "mode": mode}, nil, &hello)
	return opened, hello, err
}

// List implements session.
func (s *scriptSession) List(ctx context.Context, kind string) (names []string, err error) {
	err = s.script.do(ctx, "list", map[string]any{"session": s.key, "kind": kind}, nil, &names)
	return names, err
}

// Call implements session.
func (s *scriptSession) Call(ctx context.Context, name string, args map[string]any, progress func()) (text string, err error) {
	order := map[string]any{"session": s.key, "name": name, "args": args, "progress": progress != nil}
	err = s.script.do(ctx, "call", order, progress, &text)
	return text, err
}

// Subscribe implements session.
func (s *scriptSession) Subscribe(ctx context.Context, uri string) error {
	return s.script.do(ctx, "subscribe", map[string]any{"session": s.key, "uri": uri}, nil, nil)
}

// Updated implements session.
func (s *scriptSession) Updated() <-chan string { return s.updated }

// Close implements session.
func (s *scriptSession) Close(ctx context.Context) error {
	return s.script.do(ctx, "close", map[string]any{"session": s.key}, nil, nil)
}

// Prompt implements wholeSession.
func (s *scriptSession) Prompt(ctx context.Context, name string) (text string, err error) {
	err = s.script.do(ctx, "prompt", map[string]any{"session": s.key, "name": name}, nil, &text)
	return text, err
}

// Read implements wholeSession.
func (s *scriptSession) Read(ctx context.Context, uri string) (uris []string, err error) {
	err = s.script.do(ctx, "read", map[string]any{"session": s.key, "uri": uri}, nil, &uris)
	return uris, err
}

// Complete implements wholeSession.
func (s *scriptSession) Complete(ctx context.Context, prompt, argument, value string) (values []string, err error) {
	order := map[string]any{"session": s.key, "prompt": prompt, "argument": argument, "value": value}
	err = s.script.do(ctx, "complete", order, nil, &values)
	return values, err
}

// Level implements wholeSession.
func (s *scriptSession) Level(ctx context.Context, level string) error {
	return s.script.do(ctx, "level", map[string]any{"session": s.key, "level": level}, nil, nil)
}

// Roots implements wholeSession.
func (s *scriptSession) Roots(ctx context.Context, uri string) error {
	return s.script.do(ctx, "roots", map[string]any{"session": s.key, "uri": uri}, nil, nil)
}

// Told implements wholeSession.
func (s *scriptSession) Told() *told { return &s.told }
