package checkup

import (
	"context"
	"fmt"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/visit"
)

// maxAnswer bounds what a server may answer to a probe: initialize may come with
// instructions.
const maxAnswer = 1 << 20

// probe opens a session, asks for a sign of life, and ends the session whatever came
// of it. The error says why the server is not taken for one that works.
func (c *Checker) probe(ctx context.Context, u *config.Upstream) error {
	v := visit.New(visit.Config{Upstream: u, HTTP: c.cfg.Upstream, Client: "leasehold-health", MaxAnswer: maxAnswer})
	defer v.End(ctx) // servers may not have that: nothing is said of how they work
	ctx, cancel := context.WithTimeoutCause(ctx, u.Health.Timeout, fmt.Errorf("no answer within %v", u.Health.Timeout))
	defer cancel()
	if _, err := v.Open(ctx); err != nil {
		return fmt.Errorf("initialize: %w", err)
	}
	if _, err := v.Ask(ctx, mcp.MethodPing, ""); err != nil {
		return fmt.Errorf("ping: %w", err)
	}
	return nil
}
