// Package dial makes every connection that a worker opens at the word of a
// definition: to upstreams and to token endpoints. Which address it goes to is
// checked after names are resolved, on the address that the socket is opened for:
// what a name meant a moment ago, or how an address is spelt, does not matter.
package dial

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Policy says which addresses are dialled. The zero value allows public and
// private ones, and no loopback ones. It does not change and is safe for
// concurrent use.
//
// Some addresses are never dialled: link-local ones, those where clouds keep
// credentials of their machines, and those that mean no single machine. For any
// other, the longest network in Allow and Deny that has it decides, and Deny if
// both have the same; otherwise the rules on loopback and private addresses do.
// An address with another one in it, such as an IPv4 address as NAT64 writes it,
// is dialled if both may be.
type Policy struct {
	// AllowLoopback allows addresses of this machine.
	AllowLoopback bool
	// DenyPrivate refuses addresses of private networks, of carriers' (CGNAT), and
	// of networks for benchmarks.
	DenyPrivate bool
	// Allow and Deny are networks whose addresses are dialled, and are not.
	Allow, Deny []netip.Prefix
}

// Refused says that a policy does not let an address be dialled. It is told to
// clients: it has the rule, and nothing of the address.
type Refused struct{ Rule string }

// Error returns the rule.
func (r *Refused) Error() string { return "its address is not dialled: " + r.Rule }

// ForClient returns what a client may be told.
func (r *Refused) ForClient() string { return r.Error() }

// The rules, as clients and operators read them.
var (
	refusedNone      = &Refused{"it is no address of a machine (unspecified, multicast, broadcast or reserved)"}
	refusedLinkLocal = &Refused{"link-local addresses are never dialled"}
	refusedMetadata  = &Refused{"addresses of metadata services are never dialled"}
	refusedTunnel    = &Refused{"addresses of tunnels and of local translation (Teredo, 64:ff9b:1::/48) are never dialled"}
	refusedLoopback  = &Refused{"loopback addresses are dialled with --allow-loopback-upstreams or --insecure only"}
	refusedPrivate   = &Refused{"private addresses are not dialled with --deny-private-upstreams"}
	refusedDenied    = &Refused{"it is in --deny-upstream-cidrs"}
	refusedSpelling  = &Refused{"a number is no name of a host; an IPv4 address has four decimal numbers"}
)

// metadata are addresses of services that hand out credentials of the machine
// which asks, beside the link-local ones.
var metadata = addresses(
	"fd00:ec2::254", "fd00:ec2::23", // AWS: instances, containers
	"fd20:ce::254",    // Google
	"168.63.129.16",   // Azure
	"100.100.100.200", // Alibaba
	"192.0.0.192",     // Oracle
)

var (
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8")
	reserved    = netip.MustParsePrefix("240.0.0.0/4") // and broadcast
	linkLocal   = netip.MustParsePrefix("169.254.0.0/16")
	teredo      = netip.MustParsePrefix("2001::/32")
	localNAT64  = netip.MustParsePrefix("64:ff9b:1::/48")
	nat64       = netip.MustParsePrefix("64:ff9b::/96")
	sixToFour   = netip.MustParsePrefix("2002::/16")
	compatible  = netip.MustParsePrefix("::/96")
)

// private are networks that are not part of the internet.
var private = prefixes(
	"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "192.0.0.0/24", "198.18.0.0/15",
	"fc00::/7", "fec0::/10",
)

func addresses(texts ...string) map[netip.Addr]bool {
	all := make(map[netip.Addr]bool, len(texts))
	for _, text := range texts {
		all[netip.MustParseAddr(text)] = true
	}
	return all
}

func prefixes(texts ...string) []netip.Prefix {
	all := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		all[i] = netip.MustParsePrefix(text)
	}
	return all
}

// Validate returns what is wrong with the policy: a network with bits beyond its
// length, or one that is written as IPv4 in IPv6, which would match nothing.
func (p *Policy) Validate() error {
	for _, list := range [][]netip.Prefix{p.Allow, p.Deny} {
		for _, network := range list {
			if !network.IsValid() || network != network.Masked() || network.Addr().Is4In6() {
				return fmt.Errorf("network %s: not written as address and length of the network itself", network)
			}
		}
	}
	return nil
}

// Check returns nil if an address may be dialled, and a *Refused otherwise.
func (p *Policy) Check(address netip.Addr) error {
	address = address.WithZone("").Unmap()
	if err := p.check(address); err != nil {
		return err
	}
	if inner, ok := embedded(address); ok {
		if err := p.check(inner); err != nil {
			return err
		}
	}
	return nil
}

func (p *Policy) check(address netip.Addr) error {
	if rule := never(address); rule != nil {
		return rule
	}
	allowed, denied := longest(p.Allow, address), longest(p.Deny, address)
	switch {
	case denied >= 0 && denied >= allowed:
		return refusedDenied
	case allowed >= 0:
		return nil
	case address.IsLoopback() && !p.AllowLoopback:
		return refusedLoopback
	case p.DenyPrivate && longest(private, address) >= 0:
		return refusedPrivate
	}
	return nil
}

// never returns the rule under which an address is not dialled whatever the policy
// is, or nil.
func never(address netip.Addr) error {
	switch {
	case !address.IsValid(), address.IsUnspecified(), address.IsMulticast(), thisNetwork.Contains(address), reserved.Contains(address):
		return refusedNone
	case metadata[address], address == netip.AddrFrom4([4]byte{169, 254, 169, 254}):
		return refusedMetadata
	case address.IsLinkLocalUnicast(), linkLocal.Contains(address):
		return refusedLinkLocal
	case teredo.Contains(address), localNAT64.Contains(address):
		return refusedTunnel
	}
	return nil
}

// embedded returns the IPv4 address that an IPv6 address stands for.
func embedded(address netip.Addr) (netip.Addr, bool) {
	if !address.Is6() || address.IsLoopback() {
		return netip.Addr{}, false
	}
	b := address.As16()
	switch {
	case nat64.Contains(address), compatible.Contains(address):
		return netip.AddrFrom4([4]byte(b[12:16])), true
	case sixToFour.Contains(address):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	case binary.BigEndian.Uint32(b[8:12])&^0x02000000 == 0x00005efe: // ISATAP
		return netip.AddrFrom4([4]byte(b[12:16])), true
	}
	return netip.Addr{}, false
}

// longest returns the length of the longest network that has the address, or -1.
func longest(networks []netip.Prefix, address netip.Addr) int {
	most := -1
	for _, network := range networks {
		if network.Contains(address) {
			most = max(most, network.Bits())
		}
	}
	return most
}
