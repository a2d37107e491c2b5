package canary

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/poll"
)

// drive is a cluster that is led through success and failure.
type drive struct {
	*cluster.Cluster
	t       *testing.T
	secrets *secrets
	servers *servers
	marker  string // begins the names of all gateways, and names their upstreams
	opened  []opened
	printed bytes.Buffer // what commands printed
}

// opened is a session of a client.
type opened struct {
	short  string
	header http.Header
	owner  *cluster.Worker
}

// run runs a command, and keeps what it prints.
func (d *drive) run(stdin string, args ...string) (string, error) {
	d.t.Helper()
	cmd := exec.CommandContext(d.t.Context(), d.Binaries.Leasehold, args...)
	cmd.Env = append(os.Environ(), d.OperatorEnv(d.Control[0].Address)...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	fmt.Fprintf(&d.printed, "$ %s\n%s\n", args, out)
	return string(out), err
}

func (d *drive) succeed(stdin string, args ...string) {
	d.t.Helper()
	if _, err := d.run(stdin, args...); err != nil {
		d.t.Errorf("leasehold %s: %v", args, err) // what it said may be a secret
	}
}

func (d *drive) fail(stdin string, args ...string) {
	d.t.Helper()
	if _, err := d.run(stdin, args...); err == nil {
		d.t.Errorf("leasehold %s does what has to be refused", args)
	}
}

// watch runs a watch until it has shown a gateway.
func (d *drive) watch(args ...string) {
	d.t.Helper()
	ctx, cancel := context.WithCancel(d.t.Context())
	defer cancel()
	cmd := exec.CommandContext(ctx, d.Binaries.Leasehold, args...)
	cmd.Env = append(os.Environ(), d.OperatorEnv(d.Control[0].Address)...)
	var out locked
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	_, err := poll.Until(ctx, limit, func(context.Context) error {
		if !strings.Contains(out.text(), d.marker) {
			return fmt.Errorf("leasehold %s shows no gateway", args)
		}
		return nil
	})
	if err != nil {
		d.t.Error(err)
	}
	cancel()
	var ended *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &ended) && !errors.Is(err, context.Canceled) {
		d.t.Error(err)
	}
	d.printed.WriteString(out.text())
}

// locked is a buffer that is read while it is written.
type locked struct {
	mu     sync.Mutex // guards buffer
	buffer bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.Write(p)
}

func (l *locked) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buffer.String()
}

// name is the id of a gateway.
func (d *drive) name(short string) string { return d.marker + "-" + short }

// manifest is a gateway with one upstream, whose further fields are JSON.
func (d *drive) manifest(short, url, fields string) string {
	return fmt.Sprintf("name: %s\ndescription: %q\nupstreams:\n- {name: %s, url: %q, %s}\n---\n", d.name(short), d.marker, d.marker, url, fields)
}

// inline is a secret that is given in the definition.
func (d *drive) inline(name string) string { return fmt.Sprintf("{value: %q}", d.secrets.of(name)) }

// good are gateways that work.
func (d *drive) good(certificate, key string) map[string]string {
	oauth := func(token, authentication string) string {
		return fmt.Sprintf("credential: {oauth: {token_url: %q, client_id: me, client_secret: %s, client_authentication: %s}}",
			d.servers.endpoint(d.secrets.of(token)), d.inline("client secret by "+authentication), authentication)
	}
	quoted := func(text string) string { q, _ := json.Marshal(text); return string(q) }
	mcp := d.servers.base + "/mcp/"
	return map[string]string{
		"bearer": d.manifest("bearer", mcp, fmt.Sprintf("credential: {headers: [{name: X-One, value: %s}], bearer: %s}", d.inline("header"), d.inline("bearer"))),
		"basic":  d.manifest("basic", mcp, fmt.Sprintf("credential: {basic: {username: me, password: %s}}", d.inline("password"))),
		"key":    d.manifest("key", mcp, fmt.Sprintf("credential: {api_key: {header: X-Key, value: %s}}", d.inline("API key in a header"))),
		"query":  d.manifest("query", mcp, fmt.Sprintf("credential: {api_key: {query: key, value: %s}}", d.inline("API key in the query"))),
		"oauth":  d.manifest("oauth", mcp, oauth("access token by BASIC", "BASIC")),
		"body":   d.manifest("body", mcp, oauth("access token by BODY", "BODY")),
		"file":   d.manifest("file", mcp, "credential: {bearer: {file: token}}"),
		"env":    d.manifest("env", mcp, "credential: {bearer: {env: "+envName+"}}"),
		"caller": d.manifest("caller", mcp, "credential: {caller_header: Authorization}"),
		"tls": d.manifest("tls", d.servers.secure+"/mcp/", fmt.Sprintf("credential: {bearer: %s}, tls: {ca_pem: %s, certificate_pem: %s, private_key: {value: %s}}",
			d.inline("bearer over TLS"), quoted(string(d.servers.authority)), quoted(certificate), quoted(key))),
		"program": fmt.Sprintf("name: %s\nupstreams:\n- {name: %s, transport: STDIO, command: %q, args: [%s], env: {MARKER: %s}}\n---\n",
			d.name("program"), d.marker, os.Args[0], asProgram, d.marker),
	}
}

// bad are gateways that are accepted, and whose servers fail.
func (d *drive) bad() map[string]string {
	credential := fmt.Sprintf("credential: {headers: [{name: X-Canary, value: %s}], api_key: {query: key, value: %s}}",
		d.inline("header for a bad server"), d.inline("API key for a bad server"))
	all := map[string]string{
		"echo":       d.manifest("echo", "http://"+d.servers.echo+"/mcp", credential),
		"unknown-ca": d.manifest("unknown-ca", d.servers.secure+"/mcp/", credential),
		"no-tls":     d.manifest("no-tls", strings.Replace(d.servers.base, "http:", "https:", 1)+"/mcp/", credential),
		"closed":     d.manifest("closed", "http://127.0.0.1:1/mcp", credential),
		"metadata":   d.manifest("metadata", "http://169.254.169.254/mcp", credential),
		"no-file":    d.manifest("no-file", d.servers.base+"/mcp/", fmt.Sprintf("credential: {headers: [{name: X-Canary, value: %s}], bearer: {file: none}}", d.inline("header beside a missing file"))),
		"odd-file":   d.manifest("odd-file", d.servers.base+"/mcp/", "credential: {bearer: {file: odd}}"),
		"legacy":     d.manifest("legacy", d.servers.base+"/bad/sse", "transport: SSE, "+credential),
		"nowhere":    d.manifest("nowhere", d.servers.base+"/bad/nowhere", "transport: SSE, "+credential),
		"legacy-401": d.manifest("legacy-401", d.servers.base+"/bad/401", "transport: SSE, "+credential),
		"checked":    d.manifest("checked", "http://"+d.servers.echo+"/mcp", credential+", health_check: {interval: 1s, unhealthy_after: 1}"),
	}
	for _, how := range []string{"401", "500", "redirect", "session", "type", "version", "error", "plain"} {
		all[how] = d.manifest(how, d.servers.base+"/bad/"+how, credential)
	}
	for _, how := range []string{"refuses", "type", "expiry", "redirects", "nonsense", "space"} {
		all["token-"+how] = d.manifest("token-"+how, d.servers.base+"/mcp/", fmt.Sprintf(
			"credential: {oauth: {token_url: %q, client_id: me, client_secret: %s}}", d.servers.base+"/token/"+how, d.inline("client secret for a bad endpoint")))
	}
	for _, authentication := range []string{"BASIC", "BODY"} {
		short := "token-echo-" + strings.ToLower(authentication)
		all[short] = d.manifest(short, d.servers.base+"/mcp/", fmt.Sprintf("credential: {oauth: {token_url: %q, client_id: me, client_secret: %s, client_authentication: %s}}",
			"http://"+d.servers.echo+"/token", d.inline("client secret for an echo"), authentication))
	}
	return all
}

// refused are gateways that are not accepted, with a secret at what is wrong.
func (d *drive) refused() map[string]string {
	upstream, secret := d.servers.base+"/mcp/", d.secrets.of("refused value")
	return map[string]string{
		"user info":        d.manifest("x", "http://me:"+secret+"@127.0.0.1/mcp", ""),
		"no URL":           d.manifest("x", "http://"+secret+" /%zz", ""),
		"a token URL":      d.manifest("x", upstream, fmt.Sprintf("credential: {oauth: {token_url: 'https://me:%s@127.0.0.1/', client_id: me, client_secret: {value: %s}}}", secret, secret)),
		"a text":           d.manifest("x", upstream, "credential: {bearer: "+secret+"}"),
		"a list":           d.manifest("x", upstream, "credential: {bearer: ["+secret+"]}"),
		"a line break":     d.manifest("x", upstream, fmt.Sprintf("credential: {bearer: {value: %q}}", secret+"\nX: y")),
		"two sources":      d.manifest("x", upstream, fmt.Sprintf("credential: {bearer: {value: %s, file: f}}", secret)),
		"two kinds":        d.manifest("x", upstream, fmt.Sprintf("credential: {bearer: {value: %s}, basic: {username: a, password: {value: %s}}}", secret, secret)),
		"another's field":  d.manifest("x", upstream, fmt.Sprintf("credential: {bearer: {valeu: %s}}", secret)),
		"an anchor":        d.manifest("x", upstream, fmt.Sprintf("credential: {bearer: {value: *%s}}", secret)),
		"a tag":            d.manifest("x", upstream, fmt.Sprintf("credential: {bearer: {value: !!int %s}}", secret)),
		"no end":           d.manifest("x", upstream, fmt.Sprintf("credential: {bearer: {value: \"%s}}", secret)),
		"JSON":             fmt.Sprintf(`{"name":"x","upstreams":[{"name":"u","url":%q,"credential":{"bearer":{"value":%q "x"}}}]}`, upstream, secret),
		"a key":            d.manifest("x", upstream, fmt.Sprintf("tls: {certificate_file: c, private_key: {value: %s}}", secret)),
		"a path":           d.manifest("x", upstream, "credential: {bearer: {file: /"+secret+"}}"),
		"too long":         d.manifest("x", upstream, fmt.Sprintf("credential: {bearer: {value: %s}}", strings.Repeat(secret, 400))),
		"a header's value": d.manifest("x", upstream, fmt.Sprintf("credential: {headers: [{name: A, value: %s}]}", secret)),
	}
}

// open opens a session of a gateway at a worker, and makes a call by another.
func (d *drive) open(short string, at, by *cluster.Worker) {
	d.t.Helper()
	header := http.Header{"Authorization": {"Bearer " + d.secrets.of("caller's header")}}
	ctx := d.t.Context()
	resp, err := client.Do(ctx, http.MethodPost, at.URL(d.name(short)), header, client.Initialize(1))
	id := resp.Header.Get("Mcp-Session-Id")
	if err != nil || resp.Status != http.StatusOK || id == "" {
		d.t.Errorf("%s: initialize: status %d, %v", short, resp.Status, err)
		return
	}
	d.secrets.add("id of the client's session at "+short, id)
	header.Set("Mcp-Session-Id", id)
	header.Set("Mcp-Protocol-Version", client.Version)
	session := opened{short, header, at}
	d.opened = append(d.opened, session)
	d.call(session, by, `{"jsonrpc":"2.0","method":"notifications/initialized"}`)
	d.call(session, by, toolCall)
}

// toolCall is what a client calls a tool with.
const toolCall = `{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t"}}`

// call sends a message of a session to a worker.
func (d *drive) call(session opened, by *cluster.Worker, body string) {
	d.t.Helper()
	resp, err := client.Do(d.t.Context(), http.MethodPost, by.URL(d.name(session.short)), session.header, []byte(body))
	if err != nil || resp.Status >= 300 {
		d.t.Errorf("%s by %s, of %s: status %d, %v", session.short, by.Name, session.owner.Name, resp.Status, err)
	}
}

// stray uses sessions where they are none, and ids that a client has cut.
func (d *drive) stray(at *cluster.Worker) {
	d.t.Helper()
	for _, session := range d.opened {
		header := session.header.Clone()
		for _, id := range []string{header.Get("Mcp-Session-Id"), header.Get("Mcp-Session-Id")[:40]} {
			header.Set("Mcp-Session-Id", id)
			resp, err := client.Do(d.t.Context(), http.MethodPost, at.URL(d.name("401")), header, []byte(toolCall))
			if err != nil || resp.Status != http.StatusNotFound {
				d.t.Errorf("a session of %s at another gateway: status %d, %v; want 404", session.short, resp.Status, err)
			}
		}
	}
}

// knock opens a session at a gateway whose server fails.
func (d *drive) knock(short string, at *cluster.Worker) {
	d.t.Helper()
	resp, err := client.Do(d.t.Context(), http.MethodPost, at.URL(d.name(short)), nil, client.Initialize(1))
	if err != nil || resp.Status == http.StatusNotFound {
		d.t.Errorf("%s: status %d, %v", short, resp.Status, err)
	}
}
