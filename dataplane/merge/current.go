package merge

import (
	"context"
	"errors"
	"net/http"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/session"
)

// errOutdated says that nothing was sent, since the newest definition reaches the
// upstream in another way, or has no such upstream.
var errOutdated = errors.New("has other connection settings now")

// current is a gate that lets out only what is by the connection settings of the newest
// definition: sessions hear of that a moment later.
type current struct {
	session.Gate // nil lets everything through
	world        *config.Holder
	upstream     *config.Upstream
}

// Pass implements session.Gate.
func (c *current) Pass() error {
	if c.Gate != nil {
		if err := c.Gate.Pass(); err != nil {
			return err
		}
	}
	gateway := c.world.Load().Gateways[c.upstream.Gateway]
	if gateway == nil {
		return nil // its sessions end, which is not for us to see to
	}
	for _, u := range gateway.Real() {
		if u.Name == c.upstream.Name && u.Fingerprint == c.upstream.Fingerprint {
			return nil
		}
	}
	return errOutdated
}

// do makes a request to a part by the newest settings. errOutdated: d has others, and was
// not sent.
func (u *Upstream) do(ctx context.Context, d *session.Dispatch) (*http.Response, error) {
	d.Gate = &current{d.Gate, u.cfg.World, d.Upstream}
	return u.cfg.Inner.Do(ctx, d)
}

// successor returns the part that has the place of one under the newest definition; nil
// if there is none.
func (m *merged) successor(p *part) *part {
	m.redefine()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.partLocked(p.upstream.Name)
}
