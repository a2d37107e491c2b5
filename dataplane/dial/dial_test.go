package dial

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPolicy(t *testing.T) {
	strict := Policy{DenyPrivate: true}
	local := Policy{AllowLoopback: true}
	only := Policy{Allow: prefixes("10.1.0.0/16", "127.0.0.0/8"), Deny: prefixes("0.0.0.0/0", "::/0")}
	holes := Policy{DenyPrivate: true, Allow: prefixes("10.0.0.0/8", "169.254.0.0/16", "0.0.0.0/8", "192.168.0.0/16"), Deny: prefixes("10.1.0.0/16", "192.168.0.0/16")}
	for _, tt := range []struct {
		name    string
		policy  Policy
		address string
		want    *Refused // nil for dialled
	}{
		{"public", Policy{}, "198.51.100.7", nil},
		{"public IPv6", strict, "2600::1", nil},
		{"loopback", Policy{}, "127.0.0.1", refusedLoopback},
		{"any loopback", Policy{}, "127.9.9.9", refusedLoopback},
		{"loopback IPv6", Policy{}, "::1", refusedLoopback},
		{"loopback as IPv4 in IPv6", Policy{}, "::ffff:127.0.0.1", refusedLoopback},
		{"loopback as compatible IPv6", Policy{}, "::127.0.0.1", refusedLoopback},
		{"loopback behind NAT64", Policy{}, "64:ff9b::7f00:1", refusedLoopback},
		{"loopback by 6to4", Policy{}, "2002:7f00:1::1", refusedLoopback},
		{"loopback by ISATAP", Policy{}, "2600::5efe:7f00:1", refusedLoopback},
		{"loopback that is allowed", local, "127.0.0.1", nil},
		{"loopback IPv6 that is allowed", local, "::1", nil},
		{"loopback in IPv6 that is allowed", local, "::ffff:127.0.0.1", nil},
		{"unspecified", local, "0.0.0.0", refusedNone},
		{"unspecified IPv6", local, "::", refusedNone},
		{"unspecified in IPv6", local, "::ffff:0.0.0.0", refusedNone},
		{"this network", local, "0.1.2.3", refusedNone},
		{"multicast", local, "224.0.0.1", refusedNone},
		{"multicast IPv6", local, "ff02::1", refusedNone},
		{"broadcast", local, "255.255.255.255", refusedNone},
		{"metadata", local, "169.254.169.254", refusedMetadata},
		{"metadata in IPv6", local, "::ffff:169.254.169.254", refusedMetadata},
		{"metadata behind NAT64", local, "64:ff9b::a9fe:a9fe", refusedMetadata},
		{"metadata of AWS over IPv6", local, "fd00:ec2::254", refusedMetadata},
		{"metadata of Azure", local, "168.63.129.16", refusedMetadata},
		{"metadata of Alibaba", local, "100.100.100.200", refusedMetadata},
		{"link-local", local, "169.254.1.1", refusedLinkLocal},
		{"link-local IPv6", local, "fe80::1", refusedLinkLocal},
		{"link-local IPv6 with a zone", local, "fe80::1%eth0", refusedLinkLocal},
		{"Teredo", local, "2001::1", refusedTunnel},
		{"local NAT64", local, "64:ff9b:1::7f00:1", refusedTunnel},
		{"private", Policy{}, "10.0.0.1", nil},
		{"private that is denied", strict, "10.0.0.1", refusedPrivate},
		{"private in IPv6 that is denied", strict, "::ffff:192.168.1.1", refusedPrivate},
		{"private behind NAT64 that is denied", strict, "64:ff9b::ac10:1", refusedPrivate},
		{"unique local that is denied", strict, "fd12::1", refusedPrivate},
		{"CGNAT", Policy{}, "100.64.0.1", nil},
		{"CGNAT that is denied", strict, "100.127.255.254", refusedPrivate},
		{"next to CGNAT", strict, "100.128.0.1", nil},
		{"benchmarks", strict, "198.19.0.1", refusedPrivate},
		{"in the only network", only, "10.1.2.3", nil},
		{"outside the only network", only, "198.51.100.7", refusedDenied},
		{"outside the only network, IPv6", only, "2600::1", refusedDenied},
		{"loopback in an allowed network", only, "127.0.0.1", nil},
		{"private in an allowed network", holes, "10.2.0.1", nil},
		{"in a hole of an allowed network", holes, "10.1.0.1", refusedDenied},
		{"in the hole, in IPv6", holes, "::ffff:10.1.0.1", refusedDenied},
		{"as long a network in both lists", holes, "192.168.0.1", refusedDenied},
		{"link-local in an allowed network", holes, "169.254.1.1", refusedLinkLocal},
		{"unspecified in an allowed network", holes, "0.0.0.0", refusedNone},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.policy.Check(netip.MustParseAddr(tt.address))
			if got := (*Refused)(nil); err == nil && tt.want != nil || err != nil && (!errors.As(err, &got) || got != tt.want) {
				t.Errorf("%s: got %v, want %v", tt.address, err, tt.want)
			}
		})
	}
}

func TestPolicyRefusesNetworksThatMatchNothing(t *testing.T) {
	for _, text := range []string{"10.0.0.1/8", "::ffff:10.0.0.0/104"} {
		if _, err := New(Policy{Deny: []netip.Prefix{netip.MustParsePrefix(text)}}, nil); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: got %v, want an error that names it", text, err)
		}
	}
}

// FuzzPolicy checks that an address is judged the same however it is written, and
// that what is never dialled is not.
func FuzzPolicy(f *testing.F) {
	for _, seed := range []string{"127.0.0.1", "::1", "169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a00:1::", "fe80::1"} {
		f.Add(netip.MustParseAddr(seed).AsSlice())
	}
	open := Policy{AllowLoopback: true, Allow: prefixes("0.0.0.0/0", "::/0")}
	f.Fuzz(func(t *testing.T, raw []byte) {
		address, ok := netip.AddrFromSlice(raw)
		if !ok {
			return
		}
		if address.Is4() {
			mapped := netip.AddrFrom16(address.As16())
			for _, p := range []Policy{{}, {DenyPrivate: true}, open} {
				if (p.Check(address) == nil) != (p.Check(mapped) == nil) {
					t.Errorf("%s is judged otherwise as %s", address, mapped)
				}
			}
		}
		if plain := address.Unmap(); (plain.IsLinkLocalUnicast() || plain.IsUnspecified() || plain.IsMulticast()) && open.Check(address) == nil {
			t.Errorf("%s is dialled", address)
		}
	})
}

// listen returns the port of a listener on loopback that counts connections.
func listen(t *testing.T) (port string, accepted func() int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	counts := make(chan int)
	go func() {
		n := 0
		for {
			conn, err := l.Accept()
			if err != nil {
				counts <- n
				return
			}
			n++
			conn.Close()
		}
	}()
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port, func() int { l.Close(); return <-counts }
}

func TestANameThatComesToMeanAnotherAddressIsCheckedEachTime(t *testing.T) {
	port, accepted := listen(t)
	answers := [][]netip.Addr{{netip.MustParseAddr("127.0.0.2")}, {netip.MustParseAddr("127.0.0.1")}, {netip.MustParseAddr("::ffff:127.0.0.1")}, {netip.MustParseAddr("169.254.169.254")}}
	d, err := New(Policy{Allow: prefixes("127.0.0.2/32")}, func(_ context.Context, host string) ([]netip.Addr, error) {
		if host != "rebinding.test" {
			t.Errorf("resolved %q", host)
		}
		answer := answers[0]
		answers = answers[1:]
		return answer, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	// The first answer may be dialled, where nobody listens; the others may not.
	if _, err := d.DialContext(t.Context(), "tcp", "rebinding.test:"+port); err == nil || errors.As(err, new(*Refused)) {
		t.Errorf("first answer: got %v, want an error of the network", err)
	}
	for _, want := range []*Refused{refusedLoopback, refusedLoopback, refusedMetadata} {
		var got *Refused
		if _, err := d.DialContext(t.Context(), "tcp", "rebinding.test:"+port); !errors.As(err, &got) || got != want {
			t.Errorf("got %v, want %v", err, want)
		} else if strings.Contains(err.Error(), "127.0.0.1") || strings.Contains(err.Error(), "169.254") {
			t.Errorf("the error has the address: %v", err)
		}
	}
	if n := accepted(); n != 0 {
		t.Errorf("connections: got %d, want 0", n)
	}
}

func TestAnAddressOfANameThatMayBeDialledIsFoundAmongOthers(t *testing.T) {
	port, accepted := listen(t)
	d, _ := New(Policy{AllowLoopback: true}, func(context.Context, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("169.254.169.254"), netip.MustParseAddr("127.0.0.1")}, nil
	})
	conn, err := d.DialContext(t.Context(), "tcp", "mixed.test:"+port)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if n := accepted(); n != 1 {
		t.Errorf("connections: got %d, want 1", n)
	}
}

func TestNumbersAreNoNames(t *testing.T) {
	d, _ := New(Policy{AllowLoopback: true}, func(_ context.Context, host string) ([]netip.Addr, error) {
		t.Errorf("%q was resolved", host)
		return nil, errors.New("no such host")
	})
	for _, host := range []string{"2130706433", "0x7f000001", "0X7F.1", "0177.0.0.1", "127.1", "127.0.0.1.", "127.0.0.0x1."} {
		var got *Refused
		if _, err := d.DialContext(t.Context(), "tcp", host+":80"); !errors.As(err, &got) || got != refusedSpelling {
			t.Errorf("%s: got %v, want %v", host, err, refusedSpelling)
		}
	}
	named, _ := New(Policy{}, func(context.Context, string) ([]netip.Addr, error) { return nil, nil })
	for _, host := range []string{"1.2.3.example", "0x.example", "a1", "face.0xg"} {
		if _, err := named.Resolve(t.Context(), host); err == nil || !strings.Contains(err.Error(), "it has no address") {
			t.Errorf("%s: got %v, want it to be resolved", host, err)
		}
	}
}
