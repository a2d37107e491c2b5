package dataplane

import (
	"crypto/tls"
	"net"
	"net/netip"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/dial"
	"github.com/leasehold/leasehold/dataplane/duplex/stdio"
)

// DefaultMaxPrograms is how many programs a worker runs at most by default.
const DefaultMaxPrograms = stdio.DefaultMax

// Defaults of a worker's end.
const (
	DefaultDrainTimeout = 30 * time.Second
	DefaultDrainNotice  = 5 * time.Second
)

// DefaultMaxSessions is how many sessions a worker owns at most by default.
const DefaultMaxSessions = 50_000

// Config says how to run one worker. The zero value of every field but those
// marked required has a meaning.
type Config struct {
	// Listener serves MCP clients over HTTP; Run closes it. Required. Run also
	// connects to this one's and the next one's own address time and again: when
	// they do not answer, it gives up its lease.
	Listener net.Listener
	// PeerListener serves the other workers over gRPC; Run closes it. Required.
	PeerListener net.Listener
	// PeerAdvertise is where other workers reach PeerListener, host:port; empty
	// means the listener's own address.
	PeerAdvertise string
	// AdminAddress is shown to operators; the caller serves it. May be empty.
	AdminAddress string
	// Control are the control plane's replicas, host:port, tried in turn. Required.
	Control []string
	// DataDir is the worker's own directory. Required. The caller has locked it,
	// and keeps the lock until Run has returned: a worker takes the lock for
	// proof that the one which used the directory before, and left there what it
	// was, is dead if the machine was not started since, and lets others have its
	// sessions at once.
	DataDir string
	// Crash is what the Go runtime said when the process that used DataDir before
	// crashed (see debug.SetCrashOutput); empty if it did not. Definitions of gateways
	// that it was applying then are not applied again until they are written anew.
	Crash string
	// Zone is shown to operators.
	Zone string
	// AllowedHosts are Host header values (without port) that clients may use
	// beside loopback names on a loopback listener. On another listener they
	// are the only ones, if any are given.
	AllowedHosts []string
	// AllowedOrigins are Origin header values that browsers may send beside
	// loopback origins on a loopback listener. Pages of an admitted origin may
	// read the answers (CORS).
	AllowedOrigins []string
	// TrustedProxies are the networks of proxies whose X-Forwarded-Host counts.
	TrustedProxies []netip.Prefix
	// TLS serves clients over TLS, HTTP/1.1 and HTTP/2; nil serves plaintext.
	TLS *tls.Config
	// DrainTimeout is how long sessions that are in use may stay when this worker stops
	// or drains: those that are idle move at once. 0 means that sessions are not handed
	// over when the worker stops: others take them over then.
	DrainTimeout time.Duration
	// DrainNotice is how long the worker goes on to take requests at least, and passes
	// them on, after it has said that it is not ready any more: until balancers have
	// noticed. With a DrainTimeout only.
	DrainNotice time.Duration
	// Rebalance has the worker hand idle sessions over to others when it owns more than
	// its share of all sessions, as when workers were added.
	Rebalance bool
	// Trust is how the worker proves what it is to other processes, and how it knows
	// them. Its zero value means plaintext, which is for loopback.
	Trust Trust
	// MaxSessions bounds the sessions this worker owns; 0 means DefaultMaxSessions.
	MaxSessions int
	// AllowStdio lets gateways run programs on this machine, under this process's
	// own user: without it their sessions are refused.
	AllowStdio bool
	// MaxPrograms bounds the programs that run at the same time; 0 means
	// DefaultMaxPrograms.
	MaxPrograms int
	// ProgramMemory bounds the memory that each process of a program may write to,
	// in bytes; 0 means no bound. It needs Linux.
	ProgramMemory int64
	// Dial says which addresses of upstreams and token endpoints are dialled. The
	// zero value refuses those of this machine.
	Dial dial.Policy
	// CredentialsDir is the directory of the files that gateways may name for
	// credentials and certificates; empty means that they may name none.
	CredentialsDir string
	// CredentialEnv are the environment variables that gateways may name for
	// credentials, beside those that begin with material.EnvPrefix.
	CredentialEnv []string
	// Version is the version of the binary.
	Version string
	// Logger gets the worker's log; nil discards it.
	Logger hclog.Logger
	// Metrics gets the worker's collectors; nil means none are kept.
	Metrics prometheus.Registerer
	// Health is told each time the worker becomes ready (nil) or stops being
	// ready (why). May be nil. Called from one goroutine at a time.
	Health func(error)
	// Registered is told the worker's id each time it registers. May be nil.
	Registered func(worker string)

	applied   func(*config.Snapshot) // is told of each snapshot once it is served; may be nil
	lookup    dial.Lookup            // of upstreams' addresses; nil asks the system
	keepAlive time.Duration          // silence of a stream to a client; 0 means the default
	stall     time.Duration          // of a client that does not read; 0 means the default
}
