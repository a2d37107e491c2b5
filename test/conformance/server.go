package conformance

import (
	"context"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"

	"github.com/leasehold/leasehold/test/internal/cluster"
	"github.com/leasehold/leasehold/test/internal/poll"
)

// serverPackage is the server that the suites are made for, of the version of
// go-sdk that go.mod names.
const serverPackage = "github.com/modelcontextprotocol/go-sdk/conformance/everything-server"

// buildServer builds the server into dir.
func buildServer(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "everything-server")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", path, serverPackage).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", serverPackage, err, out)
	}
	return path, nil
}

// startServer starts the server with sessions as a process of its own and returns
// where it listens. The caller kills the process.
func startServer(ctx context.Context, binary, dir, name string) (string, *cluster.Process, error) {
	port, err := cluster.FreePort()
	if err != nil {
		return "", nil, err
	}
	address := fmt.Sprintf("127.0.0.1:%d", port)
	p, err := cluster.Run(ctx, dir, cluster.Command{
		Name: name, Path: "sh",
		Args:  []string{"-c", `exec "$0" -http="$1" -stateless=false 2>&1`, binary, address},
		Ready: regexp.MustCompile(`listening at`),
	})
	if err != nil {
		return "", nil, err
	}
	// It says so just before it does.
	_, err = poll.Until(ctx, 10*time.Second, func(context.Context) error {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err
	})
	if err != nil {
		p.Kill()
		return "", nil, fmt.Errorf("%w; its output:\n%s", err, p.Output())
	}
	return address, p, nil
}
