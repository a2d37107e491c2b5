// Package store tests, with real processes, what a running system makes of an etcd
// that is full, is compacted under everybody's watches and started anew, or asks for
// certificates.
package store

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/leasehold/leasehold/test/internal/client"
	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/poll"
)

// limit bounds what a test waits for.
const limit = 30 * time.Second

func TestMain(m *testing.M) {
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	cluster.RemoveBinaries()
	os.Exit(code)
}

// eventually waits for a state that other processes bring about.
func eventually(t *testing.T, check func(context.Context) error) {
	t.Helper()
	if _, err := poll.Until(t.Context(), limit, check); err != nil {
		t.Fatal(err)
	}
}

// operate returns a connection to a control plane, by which an operator calls.
func operate(t *testing.T, c *cluster.Cluster, control int) *grpc.ClientConn {
	t.Helper()
	conn, err := c.Dial(c.Control[control].Address, cluster.Operator)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// reason is what an error of the control plane says beside its code.
func reason(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// users are sessions of clients that count.
type users struct {
	sessions []*client.Session
	calls    []int
}

// open opens n sessions at each of some workers.
func open(t *testing.T, gateway string, n int, workers ...*cluster.Worker) *users {
	t.Helper()
	u := &users{}
	for _, w := range workers {
		for range n {
			s, err := client.Open(t.Context(), w.URL(gateway))
			if err != nil {
				t.Fatal(err)
			}
			u.sessions, u.calls = append(u.sessions, s), append(u.calls, 0)
		}
	}
	return u
}

// call has each session make a call at a worker, which must count on.
func (u *users) call(t *testing.T, gateway string, at *cluster.Worker) {
	t.Helper()
	for i, s := range u.sessions {
		u.calls[i]++
		if got, err := s.Increment(t.Context(), at.URL(gateway)); err != nil || got != u.calls[i] {
			t.Fatalf("session %d at %s: got %d, %v; want %d", i, at.Name, got, err, u.calls[i])
		}
	}
}

// readyz returns what a process says of its health.
func readyz(ctx context.Context, admin string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+admin+"/readyz", nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// incarnations are those of all workers that are alive, by name.
func incarnations(ctx context.Context, c *cluster.Cluster) (map[string]int64, error) {
	registered, err := c.Registered(ctx)
	found := map[string]int64{}
	for _, w := range registered {
		found[w.GetName()] = w.GetIncarnation()
	}
	return found, err
}

// said checks that a process has logged a line with all of the words in it.
func said(p *cluster.Process, words ...string) error {
lines:
	for line := range strings.Lines(p.Output()) {
		for _, word := range words {
			if !strings.Contains(line, word) {
				continue lines
			}
		}
		return nil
	}
	return fmt.Errorf("%s has not logged %q in one line", p.Name, words)
}

// mask names fields.
func mask(paths ...string) *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: paths} }
