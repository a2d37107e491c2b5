package inspect_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/credential"
	"github.com/leasehold/leasehold/dataplane/inspect"
)

const canary = "canary-4f1c2d3e"

// listens serves TCP connections.
func listens(t *testing.T, serve func(net.Conn)) *url.URL {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serve(conn)
			conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return parse(t, "http://"+l.Addr().String()+"/mcp")
}

func inlined(secret string) credential.Value {
	return credential.Value{Inline: credential.NewSecret(secret)}
}

func TestTheStepThatFailedIsNamedWithTheReason(t *testing.T) {
	secure := httptest.NewUnstartedServer(ordinary(nil))
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprintf(w, `{"error":"invalid_client","error_description":%q}`, fmt.Sprint(r.Header, string(body)))
	}))
	t.Cleanup(endpoint.Close)
	closed := listens(t, func(net.Conn) {})
	shows := func(c *credential.Credential) func(*config.Upstream) {
		return func(u *config.Upstream) { u.Credential = c }
	}
	bearer := func(v credential.Value) func(*config.Upstream) { return shows(&credential.Credential{Bearer: &v}) }
	for name, c := range map[string]struct {
		server scripted
		target func(*url.URL) *url.URL // nil: the server
		change func(*config.Upstream)
		bench  bench
		step   string
		reason string
		opened int
	}{
		"a file that is not there": {ordinary(nil), nil, bearer(credential.Value{File: "token"}), usual, "CREDENTIAL", `no directory of credentials: start it with --credentials-dir`, 0},
		"a variable not allowed":   {ordinary(nil), nil, bearer(credential.Value{Env: "HOME"}), usual, "CREDENTIAL", `environment variable "HOME": may not be used`, 0},
		"a token not given": {ordinary(nil), nil, shows(&credential.Credential{OAuth: &credential.OAuth{
			TokenURL: parse(t, endpoint.URL), ClientID: "c", ClientSecret: inlined(canary)}}), usual, "CREDENTIAL", `token endpoint answered HTTP 401 (error code "invalid_client")`, 0},
		"a certificate not there": {ordinary(nil), func(*url.URL) *url.URL { return parse(t, secure.URL) },
			func(u *config.Upstream) { u.TLS = &credential.TLS{Authorities: credential.Document{File: "ca.pem"}} }, usual, "CREDENTIAL", "no directory of credentials", 0},
		"a name that is none": {ordinary(nil), func(*url.URL) *url.URL { return parse(t, "http://none.example/mcp") }, nil,
			bench{policy: usual.policy, lookup: cannot}, "RESOLVE", "resolve none.example: no such host", 0},
		"a number for a name": {ordinary(nil), func(*url.URL) *url.URL { return parse(t, "http://2130706433/mcp") }, nil, usual, "RESOLVE", "a number is no name of a host", 0},
		"an address that is not dialled": {ordinary(nil), nil, nil, bench{}, "CONNECT",
			"its address is not dialled: loopback addresses are dialled with --allow-loopback-upstreams or --insecure only", 0},
		"nobody there":         {ordinary(nil), func(*url.URL) *url.URL { return parse(t, "http://127.0.0.1:1/mcp") }, nil, usual, "CONNECT", "connection refused", 0},
		"an unknown authority": {ordinary(nil), func(*url.URL) *url.URL { return parse(t, secure.URL+"/mcp") }, nil, usual, "TLS", "certificate signed by unknown authority", 0},
		"no TLS": {ordinary(nil), func(u *url.URL) *url.URL { s := *u; s.Scheme = "https"; return &s }, nil, usual, "TLS",
			"first record does not look like a TLS handshake", 0},
		"HTTP 500":   {ordinary(scripted{"initialize": "500 "}), nil, nil, usual, "HTTP", "the server answered HTTP 500", 0},
		"a redirect": {ordinary(scripted{"initialize": "307 "}), nil, nil, usual, "HTTP", "the server answered HTTP 307: redirects are not followed", 0},
		"HTTP 401 without a caller": {ordinary(scripted{"initialize": "401 "}), nil, shows(&credential.Credential{CallerHeader: "Authorization"}), usual, "HTTP",
			"the server answered HTTP 401: it wants the Authorization of a caller, which an inspection has not", 0},
		"no HTTP": {ordinary(nil), func(*url.URL) *url.URL {
			return listens(t, func(c net.Conn) { // says back what it is told
				b := make([]byte, 1000)
				n, _ := c.Read(b)
				c.Write(b[:n])
			})
		}, nil, usual, "HTTP", "what the server answered is no HTTP", 0},
		"a connection that breaks": {ordinary(nil), func(*url.URL) *url.URL { return closed }, nil, usual, "HTTP", "", 0},
		"a refusal": {ordinary(scripted{"initialize": `"error":{"code":-32602,"message":"REPEAT"}`}), nil, nil, usual, "INITIALIZE",
			"the server answered with the JSON-RPC error -32602", 1},
		"no result":              {ordinary(scripted{"initialize": `"x":1`}), nil, nil, usual, "INITIALIZE", "the server answered without a result", 1},
		"no version":             {ordinary(scripted{"initialize": `"result":{}`}), nil, nil, usual, "INITIALIZE", "protocolVersion of result of initialize is missing", 1},
		"initialized is refused": {ordinary(scripted{"notifications/initialized": "400 "}), nil, nil, usual, "INITIALIZE", "the server answered HTTP 400", 1},
		"no tools":               {ordinary(scripted{"tools/list": `"error":{"code":-32601,"message":"REPEAT"}`}), nil, nil, usual, "LIST_TOOLS", "the server answered with the JSON-RPC error -32601", 1},
		"no resources":           {ordinary(scripted{"resources/list": "500 "}), nil, nil, usual, "LIST_RESOURCES", "the server answered HTTP 500", 1},
		"no templates":           {ordinary(scripted{"resources/templates/list": "500 "}), nil, nil, usual, "LIST_RESOURCE_TEMPLATES", "the server answered HTTP 500", 1},
		"no prompts":             {ordinary(scripted{"prompts/list": "500 "}), nil, nil, usual, "LIST_PROMPTS", "the server answered HTTP 500", 1},
		"no end":                 {ordinary(scripted{"DELETE": "500 "}), nil, nil, usual, "END", "the server answered HTTP 500", 1},
	} {
		t.Run(name, func(t *testing.T) {
			s, target := serve(t, c.server)
			if c.target != nil {
				target = c.target(target)
			}
			u := at(target)
			u.Credential = &credential.Credential{Bearer: &credential.Value{Inline: credential.NewSecret(canary)}}
			if c.change != nil {
				c.change(u)
			}
			r := inspect.Inspect(t.Context(), c.bench.client(t), u)
			_, failed := kinds(r)
			if failed == nil || short(failed) != c.step || !strings.Contains(failed.Error, c.reason) {
				t.Errorf("got %v, want %s: %s", r, c.step, c.reason)
			}
			if strings.Contains(fmt.Sprint(r), canary) {
				t.Errorf("the credential is in the report: %v", r)
			}
			s.want(t, c.opened)
		})
	}
}

func TestATokensSecretIsNotInTheReport(t *testing.T) {
	_, target := serve(t, ordinary(scripted{"initialize": `"error":{"code":1,"message":"REPEAT"}`}))
	u := at(target)
	u.Credential = &credential.Credential{Key: &credential.Key{Query: "key", Value: inlined(canary)}}
	if r := look(t, u); strings.Contains(fmt.Sprint(r), canary) || len(r.Steps) == 0 {
		t.Errorf("got %v", r)
	}
}

func TestAServerThatDoesNotEndSessionsIsNoFailure(t *testing.T) {
	_, target := serve(t, ordinary(scripted{"DELETE": "405 "}))
	r := look(t, at(target))
	if _, failed := kinds(r); failed != nil {
		t.Errorf("got %v, want no failure", failed)
	}
	for _, step := range r.Steps {
		if said := strings.Contains(step.Detail, "HTTP 405: it ends sessions by itself"); said != (short(step) == "END") {
			t.Errorf("%s says %q", short(step), step.Detail)
		}
	}
}

func TestStepsSayHowLongTheyTook(t *testing.T) {
	const slow = 50 * time.Millisecond
	handler := ordinary(nil)
	_, target := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		if strings.Contains(string(body), `"prompts/list"`) {
			time.Sleep(slow)
		}
		handler.ServeHTTP(w, r)
	}))
	r := look(t, at(target))
	for _, step := range r.Steps {
		if took := step.Duration.AsDuration(); took < 0 || (short(step) == "LIST_PROMPTS") && took < slow {
			t.Errorf("%s: took %v", short(step), took)
		}
	}
}

func TestAnInspectionThatTakesTooLongEndsWithItsSession(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	release := make(chan struct{})
	handler := ordinary(nil)
	s, target := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		if strings.Contains(string(body), `"tools/list"`) {
			cancel(errors.New("its time is over"))
			<-release
		}
		handler.ServeHTTP(w, r)
	}))
	r := inspect.Inspect(ctx, usual.client(t), at(target))
	close(release)
	_, failed := kinds(r)
	if failed == nil || short(failed) != "LIST_TOOLS" || failed.Error != "its time is over" {
		t.Errorf("got %v, want LIST_TOOLS: its time is over", r)
	}
	s.want(t, 1)
}

func TestACallersHeaderCannotBeInspectedAndThatIsSaid(t *testing.T) {
	_, target := serve(t, ordinary(nil))
	u := at(target)
	u.Credential = &credential.Credential{CallerHeader: "X-Who"}
	r := look(t, u)
	if step := r.Steps[0]; short(step) != "CREDENTIAL" || step.Error != "" || !strings.Contains(step.Detail, "nothing is sent as X-Who: it is passed on from the callers, and an inspection has none") {
		t.Errorf("got %v", step)
	}
}
