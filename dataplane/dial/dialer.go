package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"
)

const (
	// ConnectTimeout bounds connecting to one address.
	ConnectTimeout = 3 * time.Second
	// ResolveTimeout bounds asking for the addresses of a name.
	ResolveTimeout = 2 * time.Second
	// mostAddresses bounds how many addresses of a name are tried.
	mostAddresses = 4
)

// keepAlive finds out within 15 s that the other end of a connection is gone
// without a word, however long its answer may take.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 3 * time.Second, Count: 3}

// Lookup returns the addresses of a host's name.
type Lookup func(ctx context.Context, host string) ([]netip.Addr, error)

func systemLookup(ctx context.Context, host string) ([]netip.Addr, error) {
	return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
}

// Dialer opens connections that its policy lets through. It is safe for concurrent
// use.
type Dialer struct {
	policy Policy
	lookup Lookup
}

// New returns a dialer. lookup finds the addresses of names; nil asks the system.
func New(policy Policy, lookup Lookup) (*Dialer, error) {
	if err := policy.Validate(); err != nil {
		return nil, err
	}
	if lookup == nil {
		lookup = systemLookup
	}
	return &Dialer{policy: policy, lookup: lookup}, nil
}

// Resolve returns the addresses of a host: at least one, or an error. They are not
// checked yet.
func (d *Dialer) Resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if address, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{address}, nil
	}
	if isNumber(host) {
		return nil, refusedSpelling
	}
	ctx, cancel := context.WithTimeout(ctx, ResolveTimeout)
	defer cancel()
	addresses, err := d.lookup(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", host, err)
	}
	if len(addresses) == 0 {
		return nil, fmt.Errorf("resolve %s: it has no address", host)
	}
	return addresses, nil
}

// isNumber reports whether host ends like a number, though it is no address as
// everybody writes them: some resolvers take 0x7f.1 and 2130706433 for 127.0.0.1.
func isNumber(host string) bool {
	host = strings.TrimSuffix(host, ".")
	last := host[strings.LastIndexByte(host, '.')+1:]
	if rest, hex := strings.CutPrefix(strings.ToLower(last), "0x"); hex {
		return strings.Trim(rest, "0123456789abcdef") == ""
	}
	return last != "" && strings.Trim(last, "0123456789") == ""
}

// DialContext connects to host:port over TCP. A host that is a name is resolved
// here, and its addresses are tried in turn. The error is a *Refused if the policy
// is why.
func (d *Dialer) DialContext(ctx context.Context, _, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	addresses, err := d.Resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	for _, one := range addresses[:min(len(addresses), mostAddresses)] {
		var conn net.Conn
		if conn, err = d.dial(ctx, net.JoinHostPort(one.String(), port)); err == nil || ctx.Err() != nil {
			return conn, err
		}
	}
	return nil, err
}

// dial connects to an address. The check is the kernel's next step before it
// connects, on what it connects to.
func (d *Dialer) dial(ctx context.Context, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: ConnectTimeout, KeepAliveConfig: keepAlive, ControlContext: d.control}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if refused := (*Refused)(nil); errors.As(err, &refused) {
		return nil, refused // without the address, which is in what wraps it
	}
	return conn, err
}

func (d *Dialer) control(_ context.Context, network, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil || !strings.HasPrefix(network, "tcp") {
		return fmt.Errorf("%s to what is no TCP address is not dialled", network)
	}
	return d.policy.Check(to.Addr())
}
