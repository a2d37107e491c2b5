// Package trust tests, with real processes and real TLS, who may call what, and
// that certificates come and go without a failed call.
package trust

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

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

// dial connects to an address with a certificate that was issued.
func dial(t *testing.T, c *cluster.Cluster, address, name string) *grpc.ClientConn {
	t.Helper()
	conn, err := c.Dial(address, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// issue issues a certificate.
func issue(t *testing.T, c *cluster.Cluster, role, name string, flags ...string) {
	t.Helper()
	if err := c.Issue(t.Context(), role, name, flags...); err != nil {
		t.Fatal(err)
	}
}

// logged waits until a process has logged a line with all of the words in it, a
// number of times.
func logged(t *testing.T, p *cluster.Process, times int, words ...string) {
	t.Helper()
	_, err := poll.Until(t.Context(), limit, func(context.Context) error {
		found := 0
	lines:
		for line := range strings.Lines(p.Output()) {
			for _, word := range words {
				if !strings.Contains(line, word) {
					continue lines
				}
			}
			found++
		}
		if found < times {
			return fmt.Errorf("%s has logged %q in one line %d times, want %d", p.Name, words, found, times)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
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
