package route

import (
	"context"
	"time"
)

// hearOfSettings is how long an owner waits to hear of a definition that a front
// knows already: all workers are told at the same time.
const hearOfSettings = patience / 2

// Settings are a gateway's definition as far as it matters how its upstream is
// reached.
type Settings struct {
	Revision    int64    // of the definition; 0 if there is none
	Fingerprint [16]byte // of how its upstreams are reached
}

// settings returns those of a gateway that this worker knows.
func (rt *Router) settings(gateway string) Settings {
	g := rt.cfg.World.Load().Gateways[gateway]
	if g == nil {
		return Settings{}
	}
	return Settings{g.Revision, g.Connections()}
}

// heardOf reports whether this worker knows the settings that a front knows, or newer
// ones, for which it waits for a moment: otherwise it would use old ones after other
// workers have given them up. Of a definition that it rejects it has heard.
func (rt *Router) heardOf(ctx context.Context, gateway string, known Settings) bool {
	var timer *time.Timer
	for {
		changed := rt.cfg.World.Changed()
		own := rt.settings(gateway)
		if known.Revision <= rt.cfg.World.Load().Revision || own.Fingerprint == known.Fingerprint && own.Revision != 0 {
			return true
		}
		if timer == nil {
			timer = time.NewTimer(hearOfSettings)
			defer timer.Stop()
		}
		select {
		case <-changed:
		case <-timer.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}
