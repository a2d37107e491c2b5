package config

import (
	"maps"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/leasehold/leasehold/dataplane/catalogue"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// mergedState has a gateway with two upstreams, changed.
func mergedState(revision int64, change func(*leaseholdv1.Gateway)) *State {
	s := state(revision, "http://one/mcp")
	g := s.Gateways["gateways/g"]
	g.Upstreams[0].Name = "one"
	g.Upstreams = append(g.Upstreams, &leaseholdv1.Upstream{Name: "two", Url: "http://two/mcp"})
	change(g)
	return s
}

func mergedOf(t *testing.T, change func(*leaseholdv1.Gateway)) *Upstream {
	t.Helper()
	s, err := Compile(mergedState(7, change), empty)
	if err != nil {
		t.Fatal(err)
	}
	return s.Gateways["g"].Upstream
}

func TestSeveralUpstreamsAreOneThatIsNoServer(t *testing.T) {
	u := mergedOf(t, func(g *leaseholdv1.Gateway) {
		g.Upstreams[0].Lazy, g.Upstreams[0].ResponseTimeout, g.Upstreams[0].ReconnectsPerSecond = true, durationpb.New(time.Hour), 5
		g.Upstreams[1].Required, g.Upstreams[1].OpenTimeout = true, durationpb.New(time.Second)
	})
	m := u.Merged
	if u.Gateway != "g" || u.Name != "g" || u.URL != nil || u.Transport != 0 || u.Program != nil || u.Pinned() || m == nil {
		t.Fatalf("got %+v", u)
	}
	if u.ResponseTimeout != time.Hour || u.Reconnects.Limit() != 5 || u.Reconnects.Burst() < 1 {
		t.Errorf("got silence %v and %v a second; want the longest of the parts' and the fewest", u.ResponseTimeout, u.Reconnects.Limit())
	}
	if m.OpenTimeout != DefaultOpenTimeout || m.Revision != 7 || m.Policy.Len() != 2 || len(m.Parts) != 2 {
		t.Errorf("got %+v", m)
	}
	one, two := m.Parts[0], m.Parts[1]
	if one.Name != "one" || one.Gateway != "g" || !one.Lazy || one.Required || one.OpenTimeout != DefaultPartOpenTimeout || one.Merged != nil {
		t.Errorf("one: got %+v", one)
	}
	if two.Name != "two" || two.Lazy || !two.Required || two.OpenTimeout != time.Second || two.URL.Host != "two" {
		t.Errorf("two: got %+v", two)
	}
	if got := (&Gateway{Upstream: u}).Real(); !slices.Equal(got, m.Parts) {
		t.Errorf("servers: got %v, want the parts", got)
	}
	if got := (&Gateway{Upstream: one}).Real(); !slices.Equal(got, []*Upstream{one}) {
		t.Errorf("servers: got %v, want the only one", got)
	}
	if got := mergedOf(t, func(g *leaseholdv1.Gateway) { g.OpenTimeout = durationpb.New(time.Minute) }); got.Merged.OpenTimeout != time.Minute {
		t.Errorf("got %v, want the wait that is asked for", got.Merged.OpenTimeout)
	}
}

func TestTheFingerprintOfSeveralUpstreamsStaysAndThatOfEachIsItsOwn(t *testing.T) {
	was := mergedOf(t, func(*leaseholdv1.Gateway) {})
	is := mergedOf(t, func(g *leaseholdv1.Gateway) {
		g.Upstreams[1].Url = "http://other/mcp"
		g.Upstreams = append(g.Upstreams, &leaseholdv1.Upstream{Name: "three", Url: "http://three/mcp"})
	})
	if was.Fingerprint != is.Fingerprint || was.Fingerprint == [16]byte{} {
		t.Errorf("got %x and %x, want the same", was.Fingerprint, is.Fingerprint)
	}
	if was.Merged.Parts[0].Fingerprint != is.Merged.Parts[0].Fingerprint || was.Merged.Parts[1].Fingerprint == is.Merged.Parts[1].Fingerprint {
		t.Error("want another fingerprint for the upstream that changed only")
	}
	s := mergedState(7, func(*leaseholdv1.Gateway) {})
	s.Gateways["gateways/h"] = s.Gateways["gateways/g"]
	both, err := Compile(s, empty)
	if err != nil || both.Gateways["g"].Upstream.Fingerprint == both.Gateways["h"].Upstream.Fingerprint {
		t.Errorf("two gateways have the same fingerprint, %v", err)
	}
	single, _ := Compile(state(7, "http://one/mcp"), empty)
	if single.Gateways["g"].Upstream.Merged != nil {
		t.Error("a single upstream is merged")
	}
}

func TestPolicySaysWhatTheDefinitionDoes(t *testing.T) {
	policy := mergedOf(t, func(g *leaseholdv1.Gateway) {
		g.Naming = &leaseholdv1.Naming{Mode: leaseholdv1.NamingMode_NAMING_MODE_PREFIX, Separator: "."}
		u := g.Upstreams[1]
		u.Tools = &leaseholdv1.ItemSelection{
			Include: []string{"get*"}, Exclude: []string{"get_b"},
			Overrides: []*leaseholdv1.ItemOverride{{Name: "get_c", Hide: true}, {Name: "get_d", NewName: "d"}},
		}
		u.Prompts = &leaseholdv1.ItemSelection{Exclude: []string{"p"}}
		u.Resources = &leaseholdv1.ItemSelection{Exclude: []string{"r"}}
		u.ResourceTemplates = &leaseholdv1.ItemSelection{Exclude: []string{"t"}}
	}).Merged.Policy
	for k, names := range map[catalogue.Kind]map[string]bool{
		catalogue.Tools:     {"get_a": true, "get_b": false, "get_c": false, "get_d": true, "put": false, "p": false},
		catalogue.Prompts:   {"p": false, "r": true},
		catalogue.Resources: {"r": false, "t": true},
		catalogue.Templates: {"t": false, "p": true},
	} {
		for name, want := range names {
			if got := policy.Shows(k, 1, name); got != want {
				t.Errorf("%s %q of two is shown: %v, want %v", k, name, got, want)
			}
			if !policy.Shows(k, 0, name) {
				t.Errorf("%s %q of one is not shown", k, name)
			}
		}
	}
	for name, want := range map[string]string{"get_a": "two.get_a", "get_d": "d"} {
		if got := policy.ClientName(catalogue.Tools, 1, name); got != want {
			t.Errorf("%q is called %q, want %q", name, got, want)
		}
	}
	keep := mergedOf(t, func(g *leaseholdv1.Gateway) {
		g.Naming = &leaseholdv1.Naming{Mode: leaseholdv1.NamingMode_NAMING_MODE_KEEP}
	}).Merged.Policy
	if got := keep.ClientName(catalogue.Tools, 1, "a"); got != "a" {
		t.Errorf("a kept name is %q", got)
	}
	if got := mergedOf(t, func(*leaseholdv1.Gateway) {}).Merged.Policy.ClientName(catalogue.Tools, 0, "a"); got != "one_a" {
		t.Errorf("got %q by default, want one_a", got)
	}
}

func TestAToolIsRepeatableIfWhateverItsNameLeadsToIs(t *testing.T) {
	repeatable := func(change func(*leaseholdv1.Gateway)) []string {
		u := mergedOf(t, func(g *leaseholdv1.Gateway) {
			g.Upstreams[0].RepeatableTools, g.Upstreams[1].RepeatableTools = []string{"a", "b"}, []string{"b", "c"}
			change(g)
		})
		return slices.Sorted(maps.Keys(u.Repeatable))
	}
	if got, want := repeatable(func(*leaseholdv1.Gateway) {}), []string{"one_a", "one_b", "two_b", "two_c"}; !slices.Equal(got, want) {
		t.Errorf("with prefixes: got %q, want %q", got, want)
	}
	kept := func(g *leaseholdv1.Gateway) {
		g.Naming = &leaseholdv1.Naming{Mode: leaseholdv1.NamingMode_NAMING_MODE_KEEP}
	}
	if got, want := repeatable(kept), []string{"b"}; !slices.Equal(got, want) {
		t.Errorf("with names kept: got %q, want %q", got, want)
	}
	filtered := func(g *leaseholdv1.Gateway) {
		kept(g)
		g.Upstreams[1].Tools = &leaseholdv1.ItemSelection{Exclude: []string{"a", "c"}}
	}
	if got, want := repeatable(filtered), []string{"a", "b"}; !slices.Equal(got, want) {
		t.Errorf("where the other has it not: got %q, want %q", got, want)
	}
	renamed := func(g *leaseholdv1.Gateway) {
		g.Upstreams[0].Tools = &leaseholdv1.ItemSelection{Overrides: []*leaseholdv1.ItemOverride{{Name: "a", NewName: "run"}, {Name: "other", NewName: "two_c"}}}
	}
	if got, want := repeatable(renamed), []string{"one_b", "run", "two_b"}; !slices.Equal(got, want) {
		t.Errorf("with new names: got %q, want %q", got, want)
	}
}

func TestConnectionsOfSeveralUpstreamsChangeWithHowOneIsReached(t *testing.T) {
	of := func(change func(*leaseholdv1.Gateway)) [16]byte {
		return (&Gateway{Upstream: mergedOf(t, change)}).Connections()
	}
	same := of(func(*leaseholdv1.Gateway) {})
	for what, change := range map[string]func(*leaseholdv1.Gateway){
		"policy": func(g *leaseholdv1.Gateway) { g.Upstreams[1].Lazy, g.OpenTimeout = true, durationpb.New(time.Second) },
		"names":  func(g *leaseholdv1.Gateway) { g.Naming = &leaseholdv1.Naming{Separator: "."} },
		"order":  func(g *leaseholdv1.Gateway) { slices.Reverse(g.Upstreams) },
	} {
		if of(change) != same {
			t.Errorf("%s: they have changed", what)
		}
	}
	for what, change := range map[string]func(*leaseholdv1.Gateway){
		"address": func(g *leaseholdv1.Gateway) { g.Upstreams[1].Url = "http://three/mcp" },
		"one more": func(g *leaseholdv1.Gateway) {
			g.Upstreams = append(g.Upstreams, &leaseholdv1.Upstream{Name: "three", Url: "http://two/mcp"})
		},
		"swapped": func(g *leaseholdv1.Gateway) {
			g.Upstreams[0].Url, g.Upstreams[1].Url = g.Upstreams[1].Url, g.Upstreams[0].Url
		},
	} {
		if of(change) == same {
			t.Errorf("%s: they have not changed", what)
		}
	}
	if one := mergedOf(t, func(*leaseholdv1.Gateway) {}).Merged.Parts[0]; (&Gateway{Upstream: one}).Connections() != one.Fingerprint {
		t.Error("of a single upstream they are not its own")
	}
}
