package material

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/leasehold/leasehold/dataplane/credential"
	"github.com/leasehold/leasehold/dataplane/dial"
)

// endpoint is a token endpoint: its tokens are t1, t2 and so on.
type endpoint struct {
	*httptest.Server
	mu      sync.Mutex // guards what follows
	asked   []*http.Request
	answer  func(w http.ResponseWriter, n int)
	waiting chan struct{} // answers wait for it, if there is one
}

func startEndpoint(t *testing.T) *endpoint {
	e := &endpoint{}
	e.Server = httptest.NewTLSServer(e)
	t.Cleanup(e.Close)
	return e
}

func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.ParseForm()
	e.mu.Lock()
	e.asked = append(e.asked, r)
	n, answer, waiting := len(e.asked), e.answer, e.waiting
	e.mu.Unlock()
	if waiting != nil {
		<-waiting
	}
	if answer == nil {
		answer = expiresIn(100)
	}
	answer(w, n)
}

func expiresIn(seconds int) func(http.ResponseWriter, int) {
	return says(fmt.Sprintf(`{"access_token":"t%%d","token_type":"bearer","expires_in":%d}`, seconds))
}

func says(body string) func(http.ResponseWriter, int) {
	return func(w http.ResponseWriter, n int) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, strings.ReplaceAll(body, "%d", fmt.Sprint(n)))
	}
}

func fails(w http.ResponseWriter, _ int) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusBadRequest)
	fmt.Fprint(w, `{"error":"invalid_client","error_description":"canary secret"}`)
}

func (e *endpoint) set(answer func(http.ResponseWriter, int)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.answer = answer
}

func (e *endpoint) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.asked)
}

// trusts is settings that trust the endpoint's certificate.
func (e *endpoint) trusts() *credential.TLS {
	return &credential.TLS{Authorities: credential.Document{Inline: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: e.Certificate().Raw}))}}
}

func (e *endpoint) oauth() *credential.OAuth {
	target, _ := url.Parse(e.URL + "/token?tenant=1")
	return &credential.OAuth{TokenURL: target, ClientID: "the client", ClientSecret: inline("canary secret"), Scopes: []string{"a", "b"},
		Parameters: map[string]string{"audience": "mcp"}, TLS: e.trusts()}
}

func (e *endpoint) tokens(s *testStore) *tokens { return newTokens(s.Store, "up", e.oauth()) }

func wantToken(t *testing.T, tokens *tokens, want string) *token {
	t.Helper()
	got, err := tokens.get(t.Context())
	if err != nil || got.value.Reveal() != want {
		t.Fatalf("got %v, want the token %s", err, want)
	}
	return got
}

// settle waits until no request for a token is under way.
func (t *tokens) settle() {
	t.mu.Lock()
	fetching := t.fetching
	t.mu.Unlock()
	if fetching != nil {
		<-fetching
	}
}

func TestATokenIsAskedForAsTheDefinitionSays(t *testing.T) {
	for _, inBody := range []bool{false, true} {
		s, e := newTestStore(t, asIs), startEndpoint(t)
		oauth := e.oauth()
		oauth.InBody = inBody
		wantToken(t, newTokens(s.Store, "up", oauth), "t1")
		r := e.asked[0]
		id, secret, basic := r.BasicAuth()
		if inBody {
			id, secret = url.QueryEscape(r.PostForm.Get("client_id")), url.QueryEscape(r.PostForm.Get("client_secret"))
		}
		if basic == inBody || id != "the+client" || secret != "canary+secret" {
			t.Errorf("in the body: %t: got %q and %q, basic: %t", inBody, id, secret, basic)
		}
		if r.PostForm.Get("grant_type") != "client_credentials" || r.PostForm.Get("scope") != "a b" || r.PostForm.Get("audience") != "mcp" || r.URL.Query().Get("tenant") != "1" {
			t.Errorf("got %v of %s, want what the definition says", r.PostForm, r.URL)
		}
	}
}

func TestManyRequestsGetOneTokenAndOneThatIsGivenUpFailsNoOther(t *testing.T) {
	s, e := newTestStore(t, asIs), startEndpoint(t)
	e.waiting = make(chan struct{})
	tokens := e.tokens(s)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	var group sync.WaitGroup
	group.Go(func() {
		if _, err := tokens.get(ctx); !errors.Is(err, why) {
			t.Errorf("the one that was given up: got %v, want its own reason", err)
		}
	})
	for range 20 {
		group.Go(func() {
			if got, err := tokens.get(t.Context()); err != nil || got.value.Reveal() != "t1" {
				t.Errorf("got %v, want t1", err)
			}
		})
	}
	cancel(why)
	close(e.waiting)
	group.Wait()
	if e.count() != 1 {
		t.Errorf("requests for a token: got %d, want 1", e.count())
	}
}

func TestTheNextTokenIsFetchedAheadWhileTheLastOneIsUsed(t *testing.T) {
	s, e := newTestStore(t, asIs), startEndpoint(t)
	tokens := e.tokens(s)
	wantToken(t, tokens, "t1")
	s.clock = s.clock.Add(60 * time.Second) // of 100
	wantToken(t, tokens, "t1")
	e.waiting = make(chan struct{})
	s.clock = s.clock.Add(20 * time.Second)
	for range 5 {
		wantToken(t, tokens, "t1") // at once
	}
	close(e.waiting)
	tokens.settle()
	wantToken(t, tokens, "t2")
	if e.count() != 2 {
		t.Errorf("requests for a token: got %d, want 2", e.count())
	}
	// While the endpoint fails, the last one is used until shortly before its end.
	e.set(fails)
	s.clock = s.clock.Add(80 * time.Second)
	wantToken(t, tokens, "t2")
	tokens.settle()
	wantToken(t, tokens, "t2")
	s.clock = s.clock.Add(20 * time.Second)
	_, err := tokens.get(t.Context())
	if !isMissing(err) || !strings.Contains(err.Error(), `HTTP 400 (error code "invalid_client")`) {
		t.Errorf("got %v, want what the endpoint answered", err)
	}
	if all := s.log.String() + fmt.Sprintf("%+v", err); strings.Contains(all, "canary") || strings.Contains(err.(*Missing).ForClient(), "400") {
		t.Errorf("what the endpoint said is told: %s", all)
	}
}

func TestAnEndpointThatFailsIsLeftAlone(t *testing.T) {
	s, e := newTestStore(t, asIs), startEndpoint(t)
	e.set(fails)
	tokens := e.tokens(s)
	for i, rest := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second, 30 * time.Second} {
		for range 5 {
			if _, err := tokens.get(t.Context()); !isMissing(err) {
				t.Fatalf("got %v, want a failure", err)
			}
		}
		if e.count() != i+1 {
			t.Fatalf("requests for a token: got %d, want %d", e.count(), i+1)
		}
		s.clock = s.clock.Add(rest*8/10 - time.Millisecond)
		if _, err := tokens.get(t.Context()); !isMissing(err) || e.count() != i+1 {
			t.Fatalf("asked again within %v", rest*8/10)
		}
		s.clock = s.clock.Add(rest/5 + time.Millisecond)
	}
	e.set(nil)
	wantToken(t, tokens, "t8")
}

func TestARefusedTokenIsReplacedOnceUnlessItIsNew(t *testing.T) {
	s, e := newTestStore(t, asIs), startEndpoint(t)
	tokens := e.tokens(s)
	c := &Connection{store: s.Store, tokens: tokens}
	again := func(token *token, status int) bool { return c.Again(Carried{token: token}, status) }
	first := wantToken(t, tokens, "t1")
	if again(first, 401) {
		t.Error("a token that was never accepted is replaced at once")
	}
	if again(first, 200) {
		t.Error("a request that was answered is made again")
	}
	for range 3 { // requests that went out with it together
		if !again(first, 401) {
			t.Error("a token that was accepted before is not replaced")
		}
	}
	second := wantToken(t, tokens, "t2")
	if !again(first, 401) || e.count() != 2 {
		t.Errorf("requests for a token: got %d, want 2", e.count())
	}
	wantToken(t, tokens, "t2")
	again(second, 200)
	if again(second, 401) {
		t.Error("the next token is replaced at once: an upstream that refuses now and then makes tokens go by")
	}
	s.clock = s.clock.Add(youngToken)
	if !again(second, 401) {
		t.Error("the next token is not replaced after a while")
	}
	third := wantToken(t, tokens, "t3")
	s.clock = s.clock.Add(youngToken)
	if !again(third, 401) {
		t.Error("an old token that was never accepted is not replaced")
	}
	if c.Again(Carried{}, 401) {
		t.Error("a request without a token is made again")
	}
}

func TestWhatIsNoUsableTokenIsRefused(t *testing.T) {
	for body, want := range map[string]string{
		`{"access_token":"t","token_type":"mac","expires_in":100}`: "another type than Bearer (3 bytes)",
		`{"access_token":"t\r\nX: y","token_type":"bearer"}`:       "of 7 bytes",
		`{"access_token":"t","expires_in":0.1}`:                    "as RFC 6749 has it",
		`{"access_token":"t","expires_in":-5}`:                     "good for -5s",
		`{"token_type":"bearer"}`:                                  "as RFC 6749 has it",
		strings.Repeat(" ", 2<<20) + `{"access_token":"t"}`:        "as RFC 6749 has it",
	} {
		s, e := newTestStore(t, asIs), startEndpoint(t)
		e.set(says(body))
		if _, err := e.tokens(s).get(t.Context()); !isMissing(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60s: got %v, want …%s…", body, err, want)
		}
	}
	s, e := newTestStore(t, asIs), startEndpoint(t)
	e.set(says(`{"access_token":"t%d"}`)) // good for ever
	tokens := e.tokens(s)
	wantToken(t, tokens, "t1")
	s.clock = s.clock.Add(1000 * time.Hour)
	wantToken(t, tokens, "t1")
}

// TestNothingThatATokenEndpointSaysIsInAnError has endpoints that repeat the secret.
func TestNothingThatATokenEndpointSaysIsInAnError(t *testing.T) {
	const secret = "hunter2-canary"
	hijacked := func(answer string) func(http.ResponseWriter, int) {
		return func(w http.ResponseWriter, _ int) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			conn.Write([]byte(answer))
		}
	}
	refuses := func(status int, code string) func(http.ResponseWriter, int) {
		return func(w http.ResponseWriter, _ int) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"error":%q,"error_description":%q}`, code, secret)
		}
	}
	for _, c := range []struct {
		want   string
		answer func(http.ResponseWriter, int)
	}{
		{"HTTP 400 (no error code of RFC 6749)", refuses(http.StatusBadRequest, secret)},
		{`HTTP 401 (error code "invalid_client")`, refuses(http.StatusUnauthorized, "invalid_client")},
		{"another type than Bearer (14 bytes)", says(`{"access_token":"t","token_type":"` + secret + `"}`)},
		{"as RFC 6749 has it", says(`{"access_token":"t","expires_in":"` + secret + `"}`)},
		{"as RFC 6749 has it", hijacked(secret + "\r\n\r\n")},
		{"as RFC 6749 has it", hijacked("HTTP/1.1 " + secret + " OK\r\n\r\n")},
		{"as RFC 6749 has it", hijacked("HTTP/1.1 200 OK\r\n" + secret + "\r\n\r\n")},
	} {
		s, e := newTestStore(t, asIs), startEndpoint(t)
		e.set(c.answer)
		if _, err := e.tokens(s).get(t.Context()); !isMissing(err) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), secret) {
			t.Errorf("got %v, want …%s…", err, c.want)
		}
	}
}

func TestATokenEndpointsRedirectIsNotFollowed(t *testing.T) {
	s, e := newTestStore(t, asIs), startEndpoint(t)
	other := startEndpoint(t)
	e.set(func(w http.ResponseWriter, _ int) {
		w.Header().Set("Location", other.URL)
		w.WriteHeader(http.StatusTemporaryRedirect)
	})
	if _, err := e.tokens(s).get(t.Context()); !isMissing(err) || !strings.Contains(err.Error(), "HTTP 307") || other.count() != 0 {
		t.Errorf("got %v and %d requests at the other endpoint, want HTTP 307 and none", err, other.count())
	}
}

func TestATokenEndpointIsVerifiedAndDialledByTheRules(t *testing.T) {
	s, e := newTestStore(t, asIs), startEndpoint(t)
	oauth := e.oauth()
	oauth.TLS = nil
	if _, err := newTokens(s.Store, "up", oauth).get(t.Context()); !isMissing(err) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown authority: got %v, want a refused certificate", err)
	}
	rebinding, err := dial.New(dial.Policy{}, func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	strict := newTestStore(t, func(cfg *Config) { cfg.Dialer = rebinding })
	oauth = e.oauth()
	oauth.TokenURL.Host = "id.test:" + oauth.TokenURL.Port()
	_, err = newTokens(strict.Store, "up", oauth).get(t.Context())
	missing := (*Missing)(nil)
	if !errors.As(err, &missing) || !strings.Contains(missing.ForClient(), "loopback addresses are dialled with") || e.count() != 0 {
		t.Errorf("a name that means this machine: got %v after %d requests, want the rule", err, e.count())
	}
}

func TestATokenThatNobodyGetsAnyMoreHoldsUpNoEnd(t *testing.T) {
	s, e := newTestStore(t, asIs), startEndpoint(t)
	e.waiting = make(chan struct{})
	defer close(e.waiting)
	tokens := e.tokens(s)
	var group sync.WaitGroup
	group.Go(func() {
		if _, err := tokens.get(t.Context()); !isMissing(err) {
			t.Errorf("got %v, want a failure", err)
		}
	})
	for e.count() == 0 {
		<-time.After(time.Millisecond)
	}
	s.Close()
	group.Wait()
	if _, err := tokens.get(t.Context()); !isMissing(err) {
		t.Errorf("after the end: got %v, want a failure", err)
	}
}
