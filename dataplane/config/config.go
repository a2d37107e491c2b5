// Package config holds what a worker knows of the world: gateways, members and
// the key ring at one revision. A snapshot is immutable; readers take it with
// one atomic load and never lock.
package config

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/leasehold/leasehold/dataplane/credential"
	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Defaults of a gateway's session policy.
const (
	DefaultIdleTimeout      = 30 * time.Minute
	DefaultAbsoluteLifetime = 24 * time.Hour
)

// DefaultResponseTimeout is how long an upstream may be silent while a request
// waits for its answer, if its definition does not say.
const DefaultResponseTimeout = 5 * time.Minute

// Defaults of a health check.
const (
	DefaultHealthTimeout  = 5 * time.Second
	DefaultUnhealthyAfter = 3
	DefaultHealthyAfter   = 2
)

// DefaultReconnects is how many sessions a second a worker takes up again at an
// upstream, if its definition does not say.
const DefaultReconnects = 2000

// Gateway is a gateway definition, compiled for serving.
type Gateway struct {
	ID               string
	Revision         int64
	Upstream         *Upstream
	IdleTimeout      time.Duration
	AbsoluteLifetime time.Duration
	// Reinitialize says that a session whose upstream lost it goes on with a new
	// upstream session.
	Reinitialize bool
}

// Upstream is one MCP server behind a gateway, or what makes one of several.
type Upstream struct {
	Gateway   string // its id
	Name      string
	Transport leaseholdv1.Transport
	URL       *url.URL // nil for TRANSPORT_STDIO
	Program   *Program // for TRANSPORT_STDIO
	// ResponseTimeout bounds the silence of the server while a request waits.
	ResponseTimeout time.Duration
	// Fingerprint is a digest of the connection settings; a session opened under
	// one fingerprint is never used under another.
	Fingerprint [16]byte
	// Repeatable are the tools that are safe to call twice.
	Repeatable map[string]bool
	// Reconnects paces the taking over of sessions whose owners died. Safe for
	// concurrent use.
	Reconnects *rate.Limiter
	// Credential is what the server is shown; nil for nothing.
	Credential *credential.Credential
	// TLS is how it is spoken TLS to; nil for the defaults.
	TLS *credential.TLS
	// MaxRequests bounds the requests in flight; 0 means no bound.
	MaxRequests int
	// Health is how it is asked whether it works; nil for not at all.
	Health *Health
	// Merged is what the upstream stands for: it has no transport and is no server
	// itself. Nil for a server.
	Merged *Merged
	// Lazy, Required and OpenTimeout say of one of several upstreams that it is opened
	// when it is needed, that there is no session without it, and how long its opening
	// may take.
	Lazy, Required bool
	OpenTimeout    time.Duration
}

// Health is how an upstream is asked whether it works.
type Health struct {
	Interval, Timeout            time.Duration
	UnhealthyAfter, HealthyAfter int // how many failures, or successes, in a row
}

// Pinned reports whether sessions at the upstream end with the worker that has
// them.
func (u *Upstream) Pinned() bool {
	return u.Transport == leaseholdv1.Transport_TRANSPORT_SSE || u.Transport == leaseholdv1.Transport_TRANSPORT_STDIO
}

// Program is what is run for each session of an upstream that is spoken to over
// its standard input and output.
type Program struct {
	Command string
	Args    []string
	Env     map[string]string // beside the few variables that it inherits
}

// Member is a worker that is alive.
type Member struct {
	Worker      string
	Incarnation int64
	PeerAddress string
	Zone        string
	Capacity    int  // how many sessions it can own
	Draining    bool // it hands its sessions over and takes no more
}

// Snapshot is the world at one revision. It is never changed.
type Snapshot struct {
	Revision int64
	Gateways map[string]*Gateway
	Members  map[string]Member
	Ring     *sessionid.Ring
	// RingRevision is the revision at which Ring was written; 0 if that is not known.
	RingRevision int64
	Endings      []*leaseholdv1.Ending
	// Rejections are the gateways whose newest definitions are not served, ordered by
	// the revisions of those and then by id.
	Rejections []Rejection

	workers     []string                        // those of Members that take sessions, sorted
	definitions map[string]*leaseholdv1.Gateway // what Gateways were made of, by name
}

// takers returns the workers that take sessions: all that do not drain, or, when all
// drain, all.
func takers(members map[string]Member) []string {
	all := slices.Sorted(maps.Keys(members))
	staying := slices.DeleteFunc(slices.Clone(all), func(worker string) bool { return members[worker].Draining })
	if len(staying) == 0 {
		return all
	}
	return staying
}

// Winner returns the living worker that takes an orphaned session: the
// rendezvous-hash winner among the members that take sessions, so that all fronts agree on one. It
// returns false when no member is known.
func (s *Snapshot) Winner(d sessionid.Digest) (Member, bool) {
	var best string
	var most uint64
	for _, w := range s.workers {
		h := fnv.New64a()
		h.Write(d[:])
		h.Write([]byte(w))
		if weight := mix(h.Sum64()); best == "" || weight > most {
			best, most = w, weight
		}
	}
	m, ok := s.Members[best]
	return m, ok
}

// mix finishes a hash, since FNV spreads the last bytes poorly over the high bits.
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// Holder holds the newest snapshot. It is safe for concurrent use; the zero
// value holds an empty one.
type Holder struct {
	current atomic.Pointer[Snapshot]

	mu      sync.Mutex
	changed chan struct{} // guarded by mu; closed and replaced by Set
}

var empty = &Snapshot{}

// Load returns the newest snapshot, which has revision 0 before the first Set.
func (h *Holder) Load() *Snapshot {
	if s := h.current.Load(); s != nil {
		return s
	}
	return empty
}

// Changed returns a channel that is closed when the next snapshot is there.
// Take it before Load to miss none.
func (h *Holder) Changed() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.changed == nil {
		h.changed = make(chan struct{})
	}
	return h.changed
}

// Set makes s the newest snapshot.
func (h *Holder) Set(s *Snapshot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.current.Store(s)
	if h.changed != nil {
		close(h.changed)
		h.changed = nil
	}
}

// State is the world as the control plane sent it.
type State struct {
	Revision int64
	Gateways map[string]*leaseholdv1.Gateway // by name
	Kept     []string                        // names of others that go on as they were
	Members  []*leaseholdv1.Member
	KeyRing  *leaseholdv1.KeyRing
	Endings  []*leaseholdv1.Ending
	// Earlier are definitions, by name, that were served before those of Gateways, as
	// long as one may have to go back to them; only in a state on disk.
	Earlier map[string]*leaseholdv1.Gateway
	// TTL is that of leases, and MaxOutage for how long workers may serve on without
	// the control plane, as it said before it sent the state.
	TTL, MaxOutage time.Duration
}

func compileGateway(id string, definition *leaseholdv1.Gateway) (*Gateway, error) {
	upstream, err := compileUpstreams(id, definition)
	if err != nil {
		return nil, err
	}
	gateway := &Gateway{
		ID:               id,
		Revision:         definition.GetStatus().GetRevision(),
		Upstream:         upstream,
		IdleTimeout:      DefaultIdleTimeout,
		AbsoluteLifetime: DefaultAbsoluteLifetime,
		Reinitialize:     definition.GetSession().GetOnUpstreamLost() == leaseholdv1.OnUpstreamLost_ON_UPSTREAM_LOST_REINITIALIZE,
	}
	if d := definition.GetSession().GetIdleTimeout(); d != nil {
		gateway.IdleTimeout = d.AsDuration()
	}
	if d := definition.GetSession().GetAbsoluteLifetime(); d != nil {
		gateway.AbsoluteLifetime = d.AsDuration()
	}
	return gateway, nil
}

func compileUpstream(definition *leaseholdv1.Upstream) (*Upstream, error) {
	perSecond := cmp.Or(int(definition.GetReconnectsPerSecond()), DefaultReconnects)
	u := &Upstream{
		Name: definition.GetName(), Transport: transportOf(definition),
		Repeatable: make(map[string]bool), Reconnects: rate.NewLimiter(rate.Limit(perSecond), max(1, perSecond/10)),
		ResponseTimeout: DefaultResponseTimeout, MaxRequests: int(definition.GetMaxConcurrentRequests()),
		Health: compileHealth(definition.GetHealthCheck()),
	}
	var err error
	if u.Credential, err = credential.Compile(definition.GetCredential()); err != nil {
		return nil, credential.At("credential", err)
	}
	if u.TLS, err = credential.CompileTLS(definition.GetTls()); err != nil {
		return nil, credential.At("tls", err)
	}
	u.Fingerprint = fingerprint(definition, u)
	for _, tool := range definition.GetRepeatableTools() {
		u.Repeatable[tool] = true
	}
	if d := definition.GetResponseTimeout(); d != nil {
		u.ResponseTimeout = d.AsDuration()
	}
	if u.Transport == leaseholdv1.Transport_TRANSPORT_STDIO {
		if definition.GetCommand() == "" {
			return nil, credential.At("command", errors.New("is needed with TRANSPORT_STDIO"))
		}
		u.Program = &Program{Command: definition.GetCommand(), Args: definition.GetArgs(), Env: definition.GetEnv()}
		return u, nil
	}
	if u.URL, err = url.Parse(definition.GetUrl()); err != nil || u.URL.Host == "" || (u.URL.Scheme != "http" && u.URL.Scheme != "https") {
		return nil, credential.At("url", fmt.Errorf("not an absolute http or https URL (%d bytes)", len(definition.GetUrl())))
	}
	return u, nil
}

func compileHealth(h *leaseholdv1.HealthCheck) *Health {
	if h == nil {
		return nil
	}
	own := &Health{
		Interval: max(h.GetInterval().AsDuration(), time.Second), Timeout: DefaultHealthTimeout,
		UnhealthyAfter: cmp.Or(int(h.GetUnhealthyAfter()), DefaultUnhealthyAfter),
		HealthyAfter:   cmp.Or(int(h.GetHealthyAfter()), DefaultHealthyAfter),
	}
	if h.GetTimeout() != nil {
		own.Timeout = h.GetTimeout().AsDuration()
	}
	return own
}

// transportOf returns how an upstream is spoken to. A transport left out is the
// default one.
func transportOf(u *leaseholdv1.Upstream) leaseholdv1.Transport {
	if u.GetTransport() == leaseholdv1.Transport_TRANSPORT_UNSPECIFIED {
		return leaseholdv1.Transport_TRANSPORT_STREAMABLE_HTTP
	}
	return u.GetTransport()
}

// fingerprint covers what decides which server a connection reaches and how: where
// secrets are, but not what files and variables hold.
func fingerprint(u *leaseholdv1.Upstream, compiled *Upstream) [16]byte {
	what := fmt.Appendf(nil, "connection/1\x00%s\x00%s\x00%d", u.GetName(), u.GetUrl(), transportOf(u))
	if u.GetTransport() == leaseholdv1.Transport_TRANSPORT_STDIO {
		what = fmt.Appendf(what, "\x00%q\x00%q", u.GetCommand(), u.GetArgs())
		for _, name := range slices.Sorted(maps.Keys(u.GetEnv())) {
			what = fmt.Appendf(what, "\x00%q=%q", name, u.GetEnv()[name])
		}
	}
	what = compiled.TLS.AppendSources(compiled.Credential.AppendSources(what))
	sum := sha256.Sum256(what)
	return [16]byte(sum[:16])
}

func compileRing(ring *leaseholdv1.KeyRing, previous *sessionid.Ring) (*sessionid.Ring, error) {
	keys := make([]sessionid.Key, 0, len(ring.GetKeys()))
	for i, k := range ring.GetKeys() {
		if len(k.GetId()) != 4 || len(k.GetSecret()) != 32 {
			return nil, fmt.Errorf("keys[%d]: id of %d bytes and secret of %d, want 4 and 32", i, len(k.GetId()), len(k.GetSecret()))
		}
		keys = append(keys, sessionid.Key{ID: [4]byte(k.GetId()), Secret: sessionid.Secret(k.GetSecret())})
	}
	if previous != nil && previous.Of(keys) {
		return previous, nil
	}
	return sessionid.NewRing(keys)
}
