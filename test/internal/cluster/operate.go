package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os/exec"
	"strings"

	"google.golang.org/grpc"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// CLI runs the operator's command line against the first control-plane replica
// that runs and returns what it printed on standard output.
func (c *Cluster) CLI(ctx context.Context, stdin string, args ...string) (string, error) {
	address, err := c.controlAddress()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, c.Binaries.Leasehold, args...)
	cmd.Env = append(environment(), c.OperatorEnv(address)...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("leasehold %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return stdout.String(), nil
}

// Apply makes a gateway with one upstream, by the command line. session is the
// gateway's session policy as YAML, in braces; it may be empty.
func (c *Cluster) Apply(ctx context.Context, gateway, upstream, session string) error {
	if session == "" {
		session = "{}"
	}
	_, err := c.CLI(ctx, fmt.Sprintf(`name: gateways/%s
upstreams:
- {name: upstream, url: %q, transport: STREAMABLE_HTTP}
session: %s
`, gateway, upstream, session), "apply", "-f", "-")
	return err
}

// controlAddress is the address of a control-plane replica that runs.
func (c *Cluster) controlAddress() (string, error) {
	for _, cp := range c.Control {
		if cp.Running() {
			return cp.Address, nil
		}
	}
	return "", errors.New("no control plane runs")
}

// conn returns a connection to a control-plane replica that runs.
func (c *Cluster) conn() (*grpc.ClientConn, error) {
	address, err := c.controlAddress()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn := c.conns[address]; conn != nil {
		return conn, nil
	}
	conn, err := c.Dial(address, Operator)
	if err != nil {
		return nil, err
	}
	c.conns[address] = conn
	return conn, nil
}

// Session asks the control plane for one session of a client.
func (c *Cluster) Session(ctx context.Context, gateway, id string) (*leaseholdv1.Session, error) {
	conn, err := c.conn()
	if err != nil {
		return nil, err
	}
	resp, err := leaseholdv1.NewSessionServiceClient(conn).GetSession(ctx,
		&leaseholdv1.GetSessionRequest{Name: SessionName(gateway, id)})
	if err != nil {
		return nil, fmt.Errorf("get session: %w", err)
	}
	return resp.GetSession(), nil
}

// Sessions asks the control plane for all live sessions of a gateway.
func (c *Cluster) Sessions(ctx context.Context, gateway string) ([]*leaseholdv1.Session, error) {
	conn, err := c.conn()
	if err != nil {
		return nil, err
	}
	req := &leaseholdv1.ListSessionsRequest{Parent: "gateways/" + gateway, PageSize: 1000}
	var sessions []*leaseholdv1.Session
	for {
		resp, err := leaseholdv1.NewSessionServiceClient(conn).ListSessions(ctx, req)
		if err != nil {
			return nil, fmt.Errorf("list sessions: %w", err)
		}
		sessions = append(sessions, resp.GetSessions()...)
		if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
			return sessions, nil
		}
	}
}

// Gateway asks the control plane for a gateway.
func (c *Cluster) Gateway(ctx context.Context, gateway string) (*leaseholdv1.Gateway, error) {
	conn, err := c.conn()
	if err != nil {
		return nil, err
	}
	resp, err := leaseholdv1.NewGatewayServiceClient(conn).GetGateway(ctx,
		&leaseholdv1.GetGatewayRequest{Name: "gateways/" + gateway})
	if err != nil {
		return nil, fmt.Errorf("get gateway: %w", err)
	}
	return resp.GetGateway(), nil
}

// DeleteGateway deletes a gateway.
func (c *Cluster) DeleteGateway(ctx context.Context, gateway string) error {
	conn, err := c.conn()
	if err != nil {
		return err
	}
	_, err = leaseholdv1.NewGatewayServiceClient(conn).DeleteGateway(ctx,
		&leaseholdv1.DeleteGatewayRequest{Name: "gateways/" + gateway})
	return err
}

// Owner returns the worker that a session's owner is.
func (c *Cluster) Owner(ctx context.Context, s *leaseholdv1.Session) (*Worker, error) {
	c.mu.Lock()
	w := c.owners[s.GetOwner()]
	c.mu.Unlock()
	if w != nil {
		return w, nil
	}
	registered, err := c.Registered(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, listed := range registered {
		for _, known := range c.Workers {
			if known.Listen == listed.GetListenAddress() {
				c.owners[listed.GetName()] = known
			}
		}
	}
	if w = c.owners[s.GetOwner()]; w == nil {
		return nil, fmt.Errorf("owner %s of %s is none of our workers", s.GetOwner(), s.GetName())
	}
	return w, nil
}

// SessionName is the resource name of a client's session.
func SessionName(gateway, id string) string {
	digest := sha256.Sum256([]byte(id))
	return "gateways/" + gateway + "/sessions/" + hex.EncodeToString(digest[:16])
}

// Applied returns nil if every worker that runs has applied the gateway.
func (c *Cluster) Applied(ctx context.Context, gateway string) error {
	gw, err := c.Gateway(ctx, gateway)
	if err != nil {
		return err
	}
	got, want := gw.GetStatus().GetWorkersApplied(), len(c.Live())
	if int(got) < want {
		return fmt.Errorf("%d of %d workers have applied %s", got, want, gw.GetName())
	}
	return nil
}

// Registered are the workers that are alive, as the control plane knows them.
func (c *Cluster) Registered(ctx context.Context) ([]*leaseholdv1.Worker, error) {
	conn, err := c.conn()
	if err != nil {
		return nil, err
	}
	resp, err := leaseholdv1.NewWorkerServiceClient(conn).ListWorkers(ctx, &leaseholdv1.ListWorkersRequest{PageSize: 1000})
	if err != nil {
		return nil, fmt.Errorf("list workers: %w", err)
	}
	return resp.GetWorkers(), nil
}

// Worker asks the control plane for a worker by its resource name.
func (c *Cluster) Worker(ctx context.Context, name string) (*leaseholdv1.Worker, error) {
	conn, err := c.conn()
	if err != nil {
		return nil, err
	}
	resp, err := leaseholdv1.NewWorkerServiceClient(conn).GetWorker(ctx, &leaseholdv1.GetWorkerRequest{Name: name})
	if err != nil {
		return nil, fmt.Errorf("get worker: %w", err)
	}
	return resp.GetWorker(), nil
}
