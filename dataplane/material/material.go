// Package material finds what definitions only name: secrets in files and in the
// environment of the worker, certificates, and access tokens at token endpoints.
// Everything is looked up for each request anew, so that what is rotated is used
// from then on, by sessions that were opened before too.
package material

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/credential"
	"github.com/leasehold/leasehold/dataplane/dial"
)

const (
	// EnvPrefix begins the names of the environment variables that a definition may
	// name in any case.
	EnvPrefix = "LEASEHOLD_SECRET_"
	// DefaultCallers is for how many sessions the caller's own field is remembered.
	DefaultCallers = 50_000
	// maxSecret bounds a secret.
	maxSecret = 8 << 10
	// forgetAfter is after which time what was not used is forgotten.
	forgetAfter = 10 * time.Minute
)

// Config says what a store may use.
type Config struct {
	// Dir is the directory of the files that definitions may name; empty means that
	// they may name none. No path leads out of it, by a link either.
	Dir string
	// Env are names of environment variables that definitions may name beside those
	// that begin with EnvPrefix.
	Env []string
	// Callers bounds the sessions for which the caller's own field is remembered; 0
	// means DefaultCallers.
	Callers int
	// Dialer connects to token endpoints. Required.
	Dialer *dial.Dialer
	// Logger is told of what cannot be used. Required.
	Logger hclog.Logger
}

// Missing says that a secret, a certificate or a token is not to be had now.
type Missing struct{ Err error }

// Error returns what is missing, for operators.
func (m *Missing) Error() string { return m.Err.Error() }

// Unwrap returns the reason.
func (m *Missing) Unwrap() error { return m.Err }

// ForClient returns what a client may be told: nothing of names and paths.
func (m *Missing) ForClient() string {
	if refused := (*dial.Refused)(nil); errors.As(m.Err, &refused) {
		return "no access token for it: " + refused.Error()
	}
	return "its credential or certificate is not to be had at this worker"
}

// Store finds material. It is safe for concurrent use.
type Store struct {
	cfg     Config
	now     func() time.Time
	files   *files
	env     map[string]bool
	callers *lru.Cache[string, []string]
	life    context.Context // of what it does by itself
	end     context.CancelFunc
	group   sync.WaitGroup

	mu          sync.Mutex // guards what follows
	connections map[[16]byte]*Connection
	stopped     bool
}

// New returns a store. Close it once nothing is looked up any more.
func New(cfg Config) (*Store, error) {
	s := &Store{cfg: cfg, now: time.Now, env: make(map[string]bool, len(cfg.Env)), connections: make(map[[16]byte]*Connection)}
	for _, name := range cfg.Env {
		s.env[name] = true
	}
	if s.cfg.Callers == 0 {
		s.cfg.Callers = DefaultCallers
	}
	var err error
	if s.callers, err = lru.New[string, []string](s.cfg.Callers); err != nil {
		return nil, err
	}
	if s.files, err = newFiles(cfg.Dir, func() time.Time { return s.now() }, cfg.Logger); err != nil {
		return nil, err
	}
	s.life, s.end = context.WithCancel(context.Background())
	return s, nil
}

// Run forgets in time what is not used, until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	ticker := time.NewTicker(forgetAfter / 10)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			s.sweep()
		}
	}
}

// Close ends what goes on, and waits for it.
func (s *Store) Close() {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.end()
	s.group.Wait()
	s.files.close()
}

// launch runs f, for which Close waits; false after Close.
func (s *Store) launch(f func(ctx context.Context)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return false
	}
	s.group.Go(func() { f(s.life) })
	return true
}

func (s *Store) sweep() {
	old := s.now().Add(-forgetAfter)
	s.files.sweep(old)
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, c := range s.connections {
		if time.Unix(0, c.used.Load()).Before(old) {
			delete(s.connections, key)
		}
	}
}

// Of returns what belongs to the connections of an upstream; nil if it needs
// nothing. Upstreams with one fingerprint share it, as they are shown the same.
func (s *Store) Of(u *config.Upstream) *Connection {
	if u.Credential == nil && u.TLS == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.connections[u.Fingerprint]
	if c == nil {
		c = &Connection{store: s, fingerprint: u.Fingerprint, credential: u.Credential}
		if u.URL.Scheme == "https" {
			c.tls = &settings{tls: u.TLS, host: u.URL.Hostname()}
		}
		if u.Credential != nil && u.Credential.OAuth != nil {
			c.tokens = newTokens(s, u.Name, u.Credential.OAuth)
		}
		s.connections[u.Fingerprint] = c
	}
	c.used.Store(s.now().UnixNano())
	return c
}

// Connection is what belongs to the connections of an upstream.
type Connection struct {
	store       *Store
	fingerprint [16]byte
	credential  *credential.Credential // nil for none
	tls         *settings              // nil for plain HTTP
	tokens      *tokens                // nil without OAuth
	used        atomic.Int64           // when, in ns
}

// secret returns what a value is now.
func (s *Store) secret(v credential.Value) (credential.Secret, error) {
	switch {
	case v.File != "":
		content, err := s.files.read(v.File)
		if err != nil {
			return credential.Secret{}, &Missing{err}
		}
		text := strings.TrimSuffix(strings.TrimSuffix(string(content.data), "\n"), "\r")
		if text == "" || len(text) > maxSecret {
			return credential.Secret{}, &Missing{fmt.Errorf("credential file %q: has %d bytes, want 1 to %d", v.File, len(text), maxSecret)}
		}
		return credential.NewSecret(text), nil
	case v.Env != "":
		return s.variable(v.Env)
	}
	return v.Inline, nil
}

func (s *Store) variable(name string) (credential.Secret, error) {
	if !strings.HasPrefix(name, EnvPrefix) && !s.env[name] {
		return credential.Secret{}, &Missing{fmt.Errorf("environment variable %q: may not be used: its name neither begins with %s nor is in --credential-env", name, EnvPrefix)}
	}
	text, ok := os.LookupEnv(name)
	if !ok || text == "" || len(text) > maxSecret {
		return credential.Secret{}, &Missing{fmt.Errorf("environment variable %q: has %d bytes, want 1 to %d", name, len(text), maxSecret)}
	}
	return credential.NewSecret(text), nil
}
