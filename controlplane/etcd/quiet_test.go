package etcd

import (
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/zap"
)

// lines is a writer that many goroutines may write to.
type lines struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// What an operator sees of an embedded server that starts, serves and stops as
// it should is nothing at all.
func TestServerThatIsWellSaysNothing(t *testing.T) {
	var out lines
	for range 3 {
		cfg := ServerConfig{Dir: filepath.Join(t.TempDir(), "etcd"), Logger: hclog.New(&hclog.LoggerOptions{Output: &out, Level: hclog.Warn})}
		server, err := StartServer(testContext(t), cfg)
		if err != nil {
			t.Fatal(err)
		}
		s, err := Open(ClientConfig{Endpoints: server.Endpoints(), LeaseTTL: testTTL, Logger: cfg.Logger})
		if err != nil {
			t.Fatal(err)
		}
		define(t, s, "one")
		s.Close()
		server.Close()
	}
	if got := out.String(); got != "" {
		t.Errorf("it said:\n%s", got)
	}
}

func TestRealProblemsOfAServerAreSaid(t *testing.T) {
	var out lines
	log := zapLogger(hclog.New(&hclog.LoggerOptions{Output: &out, Level: hclog.Warn}))
	log.Error("setting up serving from embedded etcd failed.", zap.Error(errors.New("accept tcp: too many open files")))
	log.Warn("stopped insecure grpc server due to error", zap.Error(errors.New("no buffer space")))
	log.Error("setting up serving from embedded etcd failed.", zap.Error(errors.New("accept tcp 127.0.0.1:1: use of closed network connection")))
	got := out.String()
	if !strings.Contains(got, "too many open files") || !strings.Contains(got, "no buffer space") || strings.Contains(got, "closed network") {
		t.Errorf("it said:\n%s\nwant the first two only", got)
	}
}
