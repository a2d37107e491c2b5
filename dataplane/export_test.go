package dataplane

import (
	"context"
	"time"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/dial"
)

// SetLookup makes lookup find the addresses of upstreams.
func (cfg *Config) SetLookup(lookup dial.Lookup) { cfg.lookup = lookup }

// SetKeepAlive bounds the silence of streams to clients.
func (cfg *Config) SetKeepAlive(d time.Duration) { cfg.keepAlive = d }

// SetStall bounds how long clients may take nothing of an answer.
func (cfg *Config) SetStall(d time.Duration) { cfg.stall = d }

// SetApplied has f told of each snapshot once it is served.
func (cfg *Config) SetApplied(f func(*config.Snapshot)) { cfg.applied = f }

// RunWithTurn is Run, but a probe of the worker's loop is answered by turn, which
// is given the loop's own answer.
func RunWithTurn(ctx context.Context, cfg Config, turn func(ctx context.Context, loop func(context.Context) error) error) error {
	w, err := assemble(cfg)
	if err != nil {
		return err
	}
	w.peers.Proves(turner{turn, w.table.Turn})
	return w.run(ctx)
}

type turner struct {
	turn func(context.Context, func(context.Context) error) error
	loop func(context.Context) error
}

// Turn implements forward.Loop.
func (t turner) Turn(ctx context.Context) error { return t.turn(ctx, t.loop) }
