package pairs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// inspectorDir has the inspector's package.
const inspectorDir = "inspector"

// inspectorSession is the inspector's command line. Each thing that it does is a
// process and a session of its own, which it does not end.
type inspectorSession struct {
	to   target
	home string // where it may write what it remembers
}

// connectInspector connects the inspector's command line.
func connectInspector(ctx context.Context, to target) (session, greeting, error) {
	home, err := os.MkdirTemp("", "leasehold-pairs-")
	if err != nil {
		return nil, greeting{}, err
	}
	s := &inspectorSession{to, home}
	var result struct {
		ProtocolVersion string `json:"protocolVersion"`
		ServerInfo      struct {
			Name string `json:"name"`
		} `json:"serverInfo"`
	}
	if err := s.run(ctx, &result, "--method", "initialize"); err != nil {
		os.RemoveAll(home)
		return nil, greeting{}, err
	}
	return s, greeting{Version: result.ProtocolVersion, Server: result.ServerInfo.Name}, nil
}

// run runs the command line and decodes what it says is the result.
func (s *inspectorSession) run(ctx context.Context, result any, args ...string) error {
	line := []string{"node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js", "--cli"}
	if s.to.Kind == "stdio" {
		line = append(append(append(line, s.to.Command), s.to.Args...), "--transport", "stdio")
	} else {
		line = append(line, s.to.URL, "--transport", s.to.Kind)
	}
	cmd := exec.CommandContext(ctx, "node", append(append(line, "--format", "json"), args...)...)
	cmd.Dir = inspectorDir
	cmd.Env = append(os.Environ(), "MCP_INSPECTOR_SECRET_STORE=memory", "HOME="+s.home)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("inspector %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	answer := struct {
		Result any `json:"result"`
	}{result}
	if err := json.Unmarshal(stdout.Bytes(), &answer); err != nil {
		return fmt.Errorf("inspector %s says %.300q: %w", strings.Join(args, " "), stdout.String(), err)
	}
	return nil
}

// List implements session.
func (s *inspectorSession) List(ctx context.Context, kind string) ([]string, error) {
	var result map[string]json.RawMessage
	if err := s.run(ctx, &result, "--method", kind+"/list"); err != nil {
		return nil, err
	}
	var listed []struct {
		Name string `json:"name"`
		URI  string `json:"uri"`
	}
	if err := json.Unmarshal(result[kind], &listed); err != nil {
		return nil, err
	}
	var names []string
	for _, one := range listed {
		if kind == "resources" {
			one.Name = one.URI
		}
		names = append(names, one.Name)
	}
	return names, nil
}

// Call implements session. It has the server report progress, of which the
// command line says nothing.
func (s *inspectorSession) Call(ctx context.Context, name string, args map[string]any, _ func()) (string, error) {
	encoded, err := json.Marshal(args)
	if err != nil {
		return "", err
	}
	var result struct {
		Content []struct {
			Text string `json:"text"`
		} `json:"content"`
	}
	if err := s.run(ctx, &result, "--method", "tools/call", "--tool-name", name, "--tool-args-json", string(encoded),
		"--tool-metadata", "progressToken=7"); err != nil {
		return "", err
	}
	var texts []string
	for _, content := range result.Content {
		texts = append(texts, content.Text)
	}
	return strings.Join(texts, "\n"), nil
}

// Many calls a tool several times in one session and returns how often that
// succeeded.
func (s *inspectorSession) Many(ctx context.Context, name string, args map[string]any, times int) (int, error) {
	encoded, err := json.Marshal(args)
	if err != nil {
		return 0, err
	}
	var result struct {
		OK int `json:"ok"`
	}
	err = s.run(ctx, &result, "--method", "tools/call", "--tool-name", name, "--tool-args-json", string(encoded),
		"--load", "--load-requests", fmt.Sprint(times), "--load-concurrency", "1")
	return result.OK, err
}

// Subscribe implements session.
func (s *inspectorSession) Subscribe(context.Context, string) error { return errLacking }

// Updated implements session.
func (s *inspectorSession) Updated() <-chan string { return nil }

// Close implements session.
func (s *inspectorSession) Close(context.Context) error { return os.RemoveAll(s.home) }
