// Package duplextest is an MCP server that speaks over standard input and output, for
// tests. What it does is said by the name of the tool that is called; each call is
// served at the same time as others. A test binary becomes the program by calling
// Main in an init function when the environment says so.
package duplextest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Env is the environment variable that makes a test binary the program. Its value
// has the words that make it behave badly: deaf (to the end of its input and to
// SIGTERM).
const Env = "LEASEHOLD_TEST_PROGRAM"

// Main is the program, if the environment says so; otherwise it returns.
func Main() {
	how, ok := os.LookupEnv(Env)
	if !ok {
		return
	}
	s := &server{answers: make(map[string]chan string)}
	s.run(how)
	os.Exit(0)
}

type server struct {
	writing sync.Mutex

	mu      sync.Mutex // guards what follows
	answers map[string]chan string
	calls   int
}

type request struct {
	ID     json.RawMessage
	Method string
	Params struct {
		Name      string
		Arguments struct {
			Text  string
			Count int
		}
		Meta struct {
			Token json.RawMessage `json:"progressToken"`
		} `json:"_meta"`
	}
}

func (s *server) run(how string) {
	deaf := strings.Contains(how, "deaf")
	if deaf {
		signal.Ignore(syscall.SIGTERM)
	}
	in := bufio.NewReader(os.Stdin)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			break
		}
		if strings.Contains(line, `"stop-reading"`) {
			time.Sleep(time.Hour)
		}
		s.take(strings.TrimSuffix(line, "\n"))
	}
	if deaf {
		time.Sleep(time.Hour)
	}
}

func (s *server) take(line string) {
	if strings.HasPrefix(line, "[") {
		var batch []json.RawMessage
		json.Unmarshal([]byte(line), &batch)
		for _, one := range batch {
			s.take(string(one))
		}
		return
	}
	var r request
	json.Unmarshal([]byte(line), &r)
	switch r.Method {
	case "":
		s.answered(string(r.ID), line)
	case "initialize":
		s.result(r, `{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"program","version":"1"}}`)
	case "tools/call":
		s.mu.Lock()
		s.calls++
		n := s.calls
		s.mu.Unlock()
		go s.call(r, line, n)
	case "notifications/initialized", "notifications/cancelled":
	default:
		s.result(r, `{}`)
	}
}

func (s *server) call(r request, line string, n int) {
	text := fmt.Sprint(n)
	args := r.Params.Arguments
	switch r.Params.Name {
	case "line": // what came
		text = line
	case "progress": // as often as asked
		for i := range args.Count {
			s.say(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%s,"progress":%d}}`, r.Params.Meta.Token, i+1)
		}
	case "notify": // of nothing in particular
		for i := range args.Count {
			s.say(`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"%d%s"}}`, i+1, args.Text)
		}
	case "ask": // the client, by its answer
		text = s.ask("ask-"+args.Text, "sampling/createMessage")
	case "ask-later": // after the answer to the call
		s.result(r, `{"content":[]}`)
		s.report(s.ask("later-"+args.Text, "roots/list"))
		return
	case "hang":
		time.Sleep(time.Hour)
	case "exit":
		fmt.Fprintln(os.Stderr, "last words: "+args.Text)
		os.Exit(args.Count)
	case "close-output":
		os.Stdout.Close()
		return
	case "print": // what is no message
		s.say("%s", args.Text)
	case "complain":
		fmt.Fprintln(os.Stderr, strings.Repeat(args.Text, max(1, args.Count)))
	case "size": // a result of that many bytes
		text = strings.Repeat("x", args.Count)
	case "environment":
		text = strings.Join(os.Environ(), " ")
	case "pid":
		text = fmt.Sprint(os.Getpid())
	case "child": // one of its own that outlives it, which keeps its output open
		child := exec.Command("sleep", "3600")
		child.Stdout, child.Stderr = os.Stdout, os.Stderr
		child.Start()
		text = fmt.Sprint(child.Process.Pid)
	}
	quoted, _ := json.Marshal(text)
	s.result(r, fmt.Sprintf(`{"content":[{"type":"text","text":%s}]}`, quoted))
}

// ask asks the client and returns its answer.
func (s *server) ask(id, method string) string {
	answer := make(chan string, 1)
	quoted := fmt.Sprintf("%q", id)
	s.mu.Lock()
	s.answers[quoted] = answer
	s.mu.Unlock()
	s.say(`{"jsonrpc":"2.0","id":%s,"method":%q,"params":{}}`, quoted, method)
	return <-answer
}

func (s *server) answered(id, line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if answer := s.answers[id]; answer != nil {
		answer <- line
	}
}

// report tells the client something by a notification.
func (s *server) report(text string) {
	quoted, _ := json.Marshal(text)
	s.say(`{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":%s}}`, quoted)
}

func (s *server) result(r request, result string) {
	s.say(`{"jsonrpc":"2.0","id":%s,"result":%s}`, r.ID, result)
}

// say writes a line.
func (s *server) say(format string, args ...any) {
	s.writing.Lock()
	defer s.writing.Unlock()
	fmt.Fprintf(os.Stdout, format+"\n", args...)
}
