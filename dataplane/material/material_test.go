package material

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/credential"
	"github.com/leasehold/leasehold/dataplane/dial"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testStore is a store whose clock a test moves.
type testStore struct {
	*Store
	dir   string
	clock time.Time
	log   strings.Builder
}

func newTestStore(t *testing.T, change func(*Config)) *testStore {
	t.Helper()
	dialer, err := dial.New(dial.Policy{AllowLoopback: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &testStore{dir: t.TempDir(), clock: time.Now()}
	cfg := Config{Dir: s.dir, Dialer: dialer, Logger: hclog.New(&hclog.LoggerOptions{Output: &s.log})}
	change(&cfg)
	if s.Store, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	s.now = func() time.Time { return s.clock }
	t.Cleanup(s.Close)
	return s
}

func asIs(*Config) {}

func (s *testStore) write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, path), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// later moves the clock so far that files are looked at again.
func (s *testStore) later() { s.clock = s.clock.Add(readAgain) }

func inline(text string) credential.Value {
	return credential.Value{Inline: credential.NewSecret(text), Fingerprint: "f"}
}

// carried returns what a request goes out with.
func (s *testStore) carried(t *testing.T, c *credential.Credential, header http.Header, target string) (Carried, error) {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	connection := &Connection{store: s.Store, credential: c}
	return connection.Carry(t.Context(), header, u, false)
}

func TestNothingOfARequestTakesThePlaceOfACredential(t *testing.T) {
	s := newTestStore(t, asIs)
	for name, tt := range map[string]struct {
		credential *credential.Credential
		field      string
		value      string
		query      string
	}{
		"bearer":   {&credential.Credential{Bearer: new(inline("good"))}, "Authorization", "Bearer good", "own=1&key=evil"},
		"basic":    {&credential.Credential{Basic: &credential.Basic{Username: "u", Password: inline("pä:ss")}}, "Authorization", "Basic dTpww6Q6c3M=", "own=1&key=evil"},
		"header":   {&credential.Credential{Headers: []credential.Header{{Name: "X-Key", Value: inline("good")}}}, "X-Key", "good", "own=1&key=evil"},
		"key":      {&credential.Credential{Key: &credential.Key{Header: "X-Key", Value: inline("good")}}, "X-Key", "good", "own=1&key=evil"},
		"query":    {&credential.Credential{Key: &credential.Key{Query: "key", Value: inline("g&o=d")}}, "X-Key", "evil", "own=1&key=g%26o%3Dd"},
		"caller's": {&credential.Credential{CallerHeader: "X-Key"}, "X-Key", "", "own=1&key=evil"},
	} {
		t.Run(name, func(t *testing.T) {
			header := http.Header{"Authorization": {"Bearer evil"}, "X-Key": {"evil", "evil"}, "Accept": {"a"}}
			before := header.Clone()
			got, err := s.carried(t, tt.credential, header, "http://h/mcp?own=1&key=evil")
			if err != nil {
				t.Fatal(err)
			}
			if values := got.Header[tt.field]; got.Header.Get(tt.field) != tt.value || tt.value != "evil" && len(values) > 1 || got.Header.Get("Accept") != "a" {
				t.Errorf("got %v, want %s: %s, once", got.Header, tt.field, tt.value)
			}
			if got.URL.RawQuery != tt.query {
				t.Errorf("query: got %s, want %s", got.URL.RawQuery, tt.query)
			}
			if strings.Join(header["X-Key"], "")+header.Get("Authorization") != strings.Join(before["X-Key"], "")+before.Get("Authorization") {
				t.Errorf("the request's own header was changed: %v", header)
			}
		})
	}
}

func TestAFileIsUsedAsItIsNowAndStaysAsItWasWhenItGoesAway(t *testing.T) {
	s := newTestStore(t, asIs)
	s.write(t, "token", "one\n")
	value := credential.Value{File: "token"}
	want := func(text string) {
		t.Helper()
		if got, err := s.secret(value); err != nil || got.Reveal() != text {
			t.Errorf("got %q, %v; want %q", got.Reveal(), err, text)
		}
	}
	want("one")
	s.write(t, "token", "two\r\n")
	want("one") // for a moment
	s.later()
	want("two")
	os.Remove(filepath.Join(s.dir, "token"))
	for range 3 {
		s.later()
		want("two")
	}
	if n := strings.Count(s.log.String(), "cannot be read"); n != 1 || strings.Contains(s.log.String(), "two") {
		t.Errorf("log: got %q, want one complaint, without the value", s.log.String())
	}
	s.write(t, "token", "three")
	s.later()
	want("three")
	s.write(t, "token", strings.Repeat("x", maxSecret+1))
	s.later()
	if _, err := s.secret(value); !isMissing(err) || !strings.Contains(err.Error(), "8193 bytes, want 1 to 8192") {
		t.Errorf("too large: got %v, want the bound", err)
	}
}

func isMissing(err error) bool { return errors.As(err, new(*Missing)) }

func TestFilesAreReadBelowTheDirectoryOnly(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newTestStore(t, asIs)
	// As Kubernetes mounts secrets: links, but below the directory.
	for _, step := range []error{
		os.Symlink(outside, filepath.Join(s.dir, "link")), os.Mkdir(filepath.Join(s.dir, "..data"), 0o700),
		os.WriteFile(filepath.Join(s.dir, "..data", "token"), []byte("good"), 0o600), os.Symlink("..data/token", filepath.Join(s.dir, "token")),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	for _, path := range []string{"link", outside, "../outside", "..data", "none"} {
		_, err := s.secret(credential.Value{File: path})
		if !isMissing(err) || strings.Contains(err.(*Missing).ForClient(), path) {
			t.Errorf("%s: got %v, want a refusal, and nothing of it for clients", path, err)
		}
	}
	if got, err := s.secret(credential.Value{File: "token"}); err != nil || got.Reveal() != "good" {
		t.Errorf("link below the directory: got %q, %v", got.Reveal(), err)
	}
	none := newTestStore(t, func(cfg *Config) { cfg.Dir = "" })
	if _, err := none.secret(credential.Value{File: "token"}); !errors.Is(err, errNoDir) {
		t.Errorf("without a directory: got %v, want %v", err, errNoDir)
	}
}

func TestOnlyVariablesThatAreMeantForItAreRead(t *testing.T) {
	s := newTestStore(t, func(cfg *Config) { cfg.Env = []string{"LISTED"} })
	for _, name := range []string{"LEASEHOLD_SECRET_A", "LISTED", "OTHER", "LEASEHOLD_TLS_KEY"} {
		t.Setenv(name, "value of "+name)
	}
	for _, name := range []string{"LEASEHOLD_SECRET_A", "LISTED"} {
		if got, err := s.secret(credential.Value{Env: name}); err != nil || got.Reveal() != "value of "+name {
			t.Errorf("%s: got %q, %v", name, got.Reveal(), err)
		}
	}
	for _, name := range []string{"OTHER", "LEASEHOLD_TLS_KEY", "LEASEHOLD_SECRET_UNSET"} {
		if got, err := s.secret(credential.Value{Env: name}); !isMissing(err) {
			t.Errorf("%s: got %q, %v; want a refusal", name, got.Reveal(), err)
		}
	}
}

func TestWhatAHeaderCannotHaveIsNotSent(t *testing.T) {
	s := newTestStore(t, asIs)
	s.write(t, "token", "one\r\nX-Evil: 1")
	_, err := s.carried(t, &credential.Credential{Bearer: &credential.Value{File: "token"}}, nil, "http://h/")
	if !isMissing(err) || strings.Contains(err.Error(), "Evil") {
		t.Errorf("got %v, want a refusal without the value", err)
	}
}

func TestTheCallersFieldGoesOutUnderTheNameOfTheDefinitionOnly(t *testing.T) {
	s := newTestStore(t, asIs)
	c := &Connection{store: s.Store, credential: &credential.Credential{CallerHeader: "Authorization"}}
	target, _ := url.Parse("http://h/")
	carry := func(header http.Header, own bool) string {
		t.Helper()
		got, err := c.Carry(t.Context(), header, target, own)
		if err != nil {
			t.Fatal(err)
		}
		return got.Header.Get("Authorization")
	}
	from := func(name, value, session string) http.Header {
		h := http.Header{credential.CallerField(name): {value}}
		if session != "" {
			h.Set("Mcp-Session-Id", session)
		}
		return h
	}
	if got := carry(from("Authorization", "Bearer a", ""), false); got != "Bearer a" {
		t.Errorf("got %q, want the caller's", got)
	}
	if got := carry(from("X-Other", "Bearer a", ""), false); got != "" {
		t.Errorf("a field of another name: got %q, want none", got)
	}
	// The session that is opened, its later request, and the worker's own ones.
	c.Note(http.MethodPost, from("Authorization", "Bearer a", ""), http.Header{"Mcp-Session-Id": {"s"}}, false)
	own := http.Header{"Mcp-Session-Id": {"s"}}
	if got := carry(own, true); got != "Bearer a" {
		t.Errorf("the worker's own request: got %q, want what opened the session", got)
	}
	if got := carry(own, false); got != "" {
		t.Errorf("a caller without the field: got %q, want none", got)
	}
	c.Note(http.MethodPost, from("Authorization", "Bearer b", "s"), nil, false)
	if got := carry(own, true); got != "Bearer b" {
		t.Errorf("got %q, want the newest", got)
	}
	c.Note(http.MethodPost, own, nil, true)
	if got := carry(http.Header{"Mcp-Session-Id": {"other"}}, true); got != "" || carry(own, true) != "Bearer b" {
		t.Errorf("another session: got %q, want none", got)
	}
	c.Note(http.MethodPost, own, nil, false)
	if got := carry(own, true); got != "" {
		t.Errorf("after a request without it: got %q, want none", got)
	}
	for name, forget := range map[string]func(){
		"ended": func() { c.Note(http.MethodDelete, own, nil, true) }, "elsewhere": func() { c.Forget("s") },
	} {
		c.Note(http.MethodPost, from("Authorization", "Bearer c", "s"), nil, false)
		forget()
		if got := carry(own, true); got != "" || s.callers.Len() != 0 {
			t.Errorf("session %s: got %q, want it forgotten", name, got)
		}
	}
}

func TestWhatIsNotUsedIsForgotten(t *testing.T) {
	s := newTestStore(t, asIs)
	s.write(t, "token", "one")
	u := &config.Upstream{URL: &url.URL{Scheme: "https", Host: "h"}, Credential: &credential.Credential{Bearer: &credential.Value{File: "token"}}}
	first := s.Of(u)
	if _, err := first.Carry(t.Context(), nil, u.URL, false); err != nil || s.Of(u) != first {
		t.Fatalf("got %v, and another connection; want one", err)
	}
	s.clock = s.clock.Add(forgetAfter)
	s.Of(u)
	s.sweep()
	if len(s.connections) != 1 || len(s.files.known) != 1 {
		t.Errorf("in use: got %d and %d, want both kept", len(s.connections), len(s.files.known))
	}
	s.clock = s.clock.Add(forgetAfter + 1)
	s.sweep()
	if len(s.connections) != 0 || len(s.files.known) != 0 {
		t.Errorf("not used: got %d connections and %d files, want none", len(s.connections), len(s.files.known))
	}
	if s.Of(&config.Upstream{}) != nil {
		t.Error("an upstream that needs nothing has something")
	}
}

func TestAClosedStoreBeginsNothing(t *testing.T) {
	s := newTestStore(t, asIs)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
	s.Close()
	if s.launch(func(context.Context) {}) {
		t.Error("work is begun")
	}
}

// FuzzParameter checks that a key is in the query exactly once, whatever else is.
func FuzzParameter(f *testing.F) {
	f.Add("own=1&key=evil", "key", "good")
	f.Add("k%65y=evil&&=&%zz", "key", "a&key=b")
	f.Fuzz(func(t *testing.T, query, name, value string) {
		got, err := url.ParseQuery(withParameter(&url.URL{RawQuery: query}, name, credential.NewSecret(value)).RawQuery)
		if values := got[name]; len(values) != 1 || values[0] != value {
			t.Errorf("%q: got %q (%v), want %q once", query, values, err, value)
		}
	})
}
