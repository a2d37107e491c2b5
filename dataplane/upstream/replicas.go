package upstream

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/leasehold/leasehold/dataplane/dial"
)

const (
	// resolvedFor is how long the addresses of a name are taken as they were.
	resolvedFor = 5 * time.Second
	// maxNames bounds the names whose addresses are remembered.
	maxNames = 1024
	// askAgain is how soon a name is asked again whether an address is gone.
	askAgain = time.Second
)

// replicas knows at which addresses an upstream is. Its name may have several:
// replicas of a server that does not share its sessions among them. New sessions
// spread over them, and each stays with the one that opened it. Safe for
// concurrent use.
type replicas struct {
	now    func() time.Time
	lookup dial.Lookup

	mu    sync.Mutex // guards names
	names map[string]resolved
}

// resolved is what a name meant at a time.
type resolved struct {
	at        time.Time
	addresses []netip.Addr
}

func newReplicas(now func() time.Time, lookup dial.Lookup) *replicas {
	return &replicas{now: now, names: make(map[string]resolved), lookup: lookup}
}

// of returns the addresses of target as host:port, in random order.
func (r *replicas) of(ctx context.Context, target *url.URL) ([]string, error) {
	addresses, err := r.resolve(ctx, target.Hostname(), resolvedFor)
	if err != nil {
		return nil, err
	}
	all := join(addresses, target)
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all, nil
}

// gone reports whether target certainly is at address no longer: its name has
// addresses, and this is none of them.
func (r *replicas) gone(ctx context.Context, target *url.URL, address string) bool {
	addresses, err := r.resolve(ctx, target.Hostname(), askAgain)
	return err == nil && len(addresses) > 0 && !slices.Contains(join(addresses, target), address)
}

func join(addresses []netip.Addr, target *url.URL) []string {
	port := target.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[target.Scheme]
	}
	all := make([]string, len(addresses))
	for i, a := range addresses {
		all[i] = net.JoinHostPort(a.Unmap().String(), port)
	}
	return all
}

// resolve returns the addresses of a name, as they were at most maxAge ago.
func (r *replicas) resolve(ctx context.Context, host string, maxAge time.Duration) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil
	}
	now := r.now()
	r.mu.Lock()
	known, ok := r.names[host]
	r.mu.Unlock()
	if ok && now.Sub(known.at) < maxAge {
		return known.addresses, nil
	}
	addresses, err := r.lookup(ctx, host)
	switch {
	case err != nil && ok:
		return known.addresses, nil // the name is no worse than it was
	case err != nil:
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.names) >= maxNames {
		clear(r.names)
	}
	r.names[host] = resolved{at: now, addresses: addresses}
	return addresses, nil
}
