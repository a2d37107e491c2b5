package controlplane

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leasehold/leasehold/controlplane/audit"
	"github.com/leasehold/leasehold/controlplane/keyring"
)

// DefaultLeaseTTL is how long a worker's lease lives without renewal.
const DefaultLeaseTTL = 6 * time.Second

// DefaultMaxOutage is for how long workers may serve on without the control plane,
// unless an operator says otherwise.
const DefaultMaxOutage = 10 * time.Minute

// LongestMaxOutage bounds that time: an incarnation is remembered for longer.
const LongestMaxOutage = 24 * time.Hour

// How old the key that seals session ids gets before another one seals, unless an
// operator says otherwise, and what an operator may say.
const (
	DefaultSessionKeyRotation  = keyring.DefaultRotation
	ShortestSessionKeyRotation = keyring.MinRotation
	LongestSessionKeyRotation  = keyring.MaxRotation
)

// minLeaseTTL is the shortest lease that etcd grants for sure.
const minLeaseTTL = 2 * time.Second

// Config says how to run one control-plane replica. The zero value of every
// field but those marked required has a meaning.
type Config struct {
	// Listener serves gRPC to operators and workers; Run closes it. Required.
	Listener net.Listener
	// EmbeddedEtcd runs an etcd server in this process, in DataDir. Exactly one
	// of EmbeddedEtcd and EtcdEndpoints is set.
	EmbeddedEtcd bool
	// EtcdEndpoints are the client URLs of an existing etcd cluster.
	EtcdEndpoints []string
	// DataDir holds the embedded etcd's data and, unless RootKeyFile is set, the
	// root key. Required with EmbeddedEtcd.
	DataDir string
	// RootKeyFile holds root keys of 32 bytes, each a line of 64 hexadecimal digits:
	// the first one wraps the key ring and the data keys of gateways, all of them
	// unwrap. It is read again when it changes. Required with EtcdEndpoints; with
	// EmbeddedEtcd it defaults to a file in DataDir that is made when it is not there.
	RootKeyFile string
	// AuditLog is the file that gets a line for each call that changes something, or
	// audit.Stderr; empty means audit.log in DataDir, or standard error without one.
	AuditLog string
	// Trust is how the plane proves what it is, and how it knows others. Its zero
	// value means plaintext everywhere, which is for loopback.
	Trust Trust
	// LeaseTTL is the workers' lease; 0 means DefaultLeaseTTL. At least 2 s, in
	// whole seconds.
	LeaseTTL time.Duration
	// MaxOutage is for how long a worker may serve on without the control plane, and so
	// for how long nobody may take over from one that could and whom nobody can ask; 0
	// means that workers may not. At most LongestMaxOutage, the same at every replica.
	MaxOutage time.Duration
	// SessionKeyRotation is how old the key that seals session ids gets before another one
	// seals; 0 means DefaultSessionKeyRotation. Between ShortestSessionKeyRotation and
	// LongestSessionKeyRotation, the same at every replica.
	SessionKeyRotation time.Duration
	// Hold is for how long a replica that has just started or got etcd back lets workers
	// come back before it takes anything from them; 0 means one and a half leases, less
	// than 0 not at all, which is for tests.
	Hold time.Duration
	// Version is the version of the binary, for the ready line and metrics.
	Version string
	// Logger gets the plane's log; nil discards it.
	Logger hclog.Logger
	// Metrics gets the plane's collectors; nil means none are kept.
	Metrics prometheus.Registerer
	// Health is told each time the plane becomes ready (nil) or stops being
	// ready (why). May be nil. Called from one goroutine at a time.
	Health func(error)
	// Alarm is told what somebody has to do something about though the plane is ready:
	// that etcd has no space left, or hardly any; and nil once it is well again. May be
	// nil. Called from one goroutine at a time.
	Alarm func(error)
	// EtcdReady is told the client URLs of etcd, once: when the embedded etcd
	// serves, or the cluster was reached. May be nil.
	EtcdReady func(endpoints []string)
}

// Validate says everything that is wrong with c.
func (c Config) Validate() error {
	var errs []error
	add := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	add(c.Listener == nil, "a listener is required")
	add(c.EmbeddedEtcd && len(c.EtcdEndpoints) > 0, "embedded etcd and etcd endpoints exclude each other")
	add(!c.EmbeddedEtcd && len(c.EtcdEndpoints) == 0, "either embedded etcd or etcd endpoints are required")
	add(c.EmbeddedEtcd && c.DataDir == "", "embedded etcd needs a data directory")
	add(!c.EmbeddedEtcd && c.RootKeyFile == "", "etcd endpoints need a root key file")
	add((c.Trust.Listener == nil) != (c.Trust.Workers == nil), "credentials for the listener and for workers go together")
	add(c.LeaseTTL != 0 && c.LeaseTTL < minLeaseTTL, "the lease TTL must be at least %s; is %s", minLeaseTTL, c.LeaseTTL)
	add(c.LeaseTTL%time.Second != 0, "the lease TTL must be whole seconds; is %s", c.LeaseTTL)
	add(c.MaxOutage < 0 || c.MaxOutage > LongestMaxOutage, "the longest outage must be between 0 and %s; is %s", LongestMaxOutage, c.MaxOutage)
	add(c.SessionKeyRotation != 0 && (c.SessionKeyRotation < ShortestSessionKeyRotation || c.SessionKeyRotation > LongestSessionKeyRotation),
		"the session key's rotation must be between %s and %s; is %s", ShortestSessionKeyRotation, LongestSessionKeyRotation, c.SessionKeyRotation)
	return errors.Join(errs...)
}

func (c Config) withDefaults() Config {
	if c.LeaseTTL == 0 {
		c.LeaseTTL = DefaultLeaseTTL
	}
	switch {
	case c.AuditLog == "" && c.DataDir == "":
		c.AuditLog = audit.Stderr
	case c.AuditLog == "":
		c.AuditLog = filepath.Join(c.DataDir, "audit.log")
	}
	if c.SessionKeyRotation == 0 {
		c.SessionKeyRotation = DefaultSessionKeyRotation
	}
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	if c.Health == nil {
		c.Health = func(error) {}
	}
	if c.EtcdReady == nil {
		c.EtcdReady = func([]string) {}
	}
	return c
}
