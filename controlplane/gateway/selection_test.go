package gateway_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/leasehold/leasehold/controlplane/gateway"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// several is valid, with three upstreams.
func several() *leaseholdv1.Gateway {
	g := valid()
	g.Naming = &leaseholdv1.Naming{Mode: leaseholdv1.NamingMode_NAMING_MODE_PREFIX, Separator: "a_.-"}
	g.OpenTimeout = durationpb.New(100 * time.Millisecond)
	g.Upstreams = append(g.Upstreams,
		&leaseholdv1.Upstream{
			Name: "web", Url: "http://web/", Required: true, OpenTimeout: durationpb.New(5 * time.Minute),
			Tools: &leaseholdv1.ItemSelection{
				Include: patterns(256, "i*"), Exclude: []string{"*", strings.Repeat("x", 1024)},
				Overrides: []*leaseholdv1.ItemOverride{
					{Name: "get", NewName: strings.Repeat("x", 128), NewDescription: strings.Repeat("x", 8192), Hide: true},
					{Name: "put"},
				},
			},
			Resources: &leaseholdv1.ItemSelection{Overrides: []*leaseholdv1.ItemOverride{{Name: "file:///a", NewDescription: "a"}}},
		},
		&leaseholdv1.Upstream{Name: "late", Url: "http://late/", Lazy: true})
	return g
}

func patterns(n int, prefix string) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprint(prefix, i)
	}
	return all
}

func TestValidateSeveralUpstreams(t *testing.T) {
	naming := func(mode leaseholdv1.NamingMode, separator string) func(*leaseholdv1.Gateway) {
		return func(g *leaseholdv1.Gateway) { g.Naming = &leaseholdv1.Naming{Mode: mode, Separator: separator} }
	}
	open := func(d time.Duration) func(*leaseholdv1.Gateway) {
		return func(g *leaseholdv1.Gateway) { g.OpenTimeout = durationpb.New(d) }
	}
	web := func(change func(*leaseholdv1.Upstream)) func(*leaseholdv1.Gateway) {
		return func(g *leaseholdv1.Gateway) { change(g.Upstreams[1]) }
	}
	override := func(change func(*leaseholdv1.ItemOverride)) func(*leaseholdv1.Gateway) {
		return web(func(u *leaseholdv1.Upstream) { change(u.Tools.Overrides[0]) })
	}
	alone := func(change func(*leaseholdv1.Gateway)) func(*leaseholdv1.Gateway) {
		return func(g *leaseholdv1.Gateway) {
			proto.Reset(g)
			proto.Merge(g, valid())
			change(g)
		}
	}
	only := func(change func(*leaseholdv1.Upstream)) func(*leaseholdv1.Gateway) {
		return alone(func(g *leaseholdv1.Gateway) { change(g.Upstreams[0]) })
	}
	const keep, prefix = leaseholdv1.NamingMode_NAMING_MODE_KEEP, leaseholdv1.NamingMode_NAMING_MODE_PREFIX
	for _, tt := range []struct {
		name   string
		change func(*leaseholdv1.Gateway)
		field  string // empty for valid
		says   string
	}{
		{"valid", func(*leaseholdv1.Gateway) {}, "", ""},
		{"most upstreams", upstreams(32), "", ""},
		{"too many upstreams", upstreams(33), "gateway.upstreams", "1 to 32 entries; has 33"},
		{"nothing said", func(g *leaseholdv1.Gateway) { g.Naming, g.OpenTimeout = nil, nil }, "", ""},
		{"keep", naming(keep, ""), "", ""},
		{"keep with a separator", naming(keep, "_"), "gateway.naming.separator", "empty with NAMING_MODE_KEEP; has 1"},
		{"unknown mode", naming(9, ""), "gateway.naming.mode", "is 9"},
		{"unspecified mode", naming(0, "__"), "", ""},
		{"separator too long", naming(prefix, "_____"), "gateway.naming.separator", "1 to 4 characters of A-Z, a-z, 0-9, _, - and a dot, or empty for _; has 5"},
		{"separator with a slash", naming(0, "/"), "gateway.naming.separator", "has 1 bytes"},
		{"separator with a plus", naming(prefix, "+"), "gateway.naming.separator", "has 1 bytes"},
		{"longest wait", open(time.Minute), "", ""},
		{"wait too short", open(99 * time.Millisecond), "gateway.open_timeout", "between 100ms and 1m0s; is 99ms"},
		{"wait too long", open(61 * time.Second), "gateway.open_timeout", "is 1m1s"},
		{"part's wait too long", web(func(u *leaseholdv1.Upstream) { u.OpenTimeout = durationpb.New(301 * time.Second) }), "gateway.upstreams[1].open_timeout", "between 100ms and 5m0s; is 5m1s"},
		{"part's wait too short", web(func(u *leaseholdv1.Upstream) { u.OpenTimeout = durationpb.New(0) }), "gateway.upstreams[1].open_timeout", "is 0s"},
		{"lazy and required", web(func(u *leaseholdv1.Upstream) { u.Lazy = true }), "gateway.upstreams[1].required", "not be set with lazy"},
		{"too many included", web(func(u *leaseholdv1.Upstream) { u.Tools.Include = patterns(257, "") }), "gateway.upstreams[1].tools.include", "at most 256 entries; has 257"},
		{"empty pattern", web(func(u *leaseholdv1.Upstream) {
			u.Prompts = &leaseholdv1.ItemSelection{Exclude: []string{"a", ""}}
		}), "gateway.upstreams[1].prompts.exclude[1]", "1 to 1024 bytes; has 0"},
		{"pattern too long", web(func(u *leaseholdv1.Upstream) {
			u.ResourceTemplates = &leaseholdv1.ItemSelection{Include: []string{strings.Repeat("x", 1025)}}
		}), "gateway.upstreams[1].resource_templates.include[0]", "1 to 1024 bytes; has 1025"},
		{"too many overrides", web(func(u *leaseholdv1.Upstream) { u.Tools.Overrides = make([]*leaseholdv1.ItemOverride, 257) }), "gateway.upstreams[1].tools.overrides", "at most 256 entries; has 257"},
		{"override of nothing", override(func(o *leaseholdv1.ItemOverride) { o.Name = "" }), "gateway.upstreams[1].tools.overrides[0].name", "1 to 1024 bytes; has 0"},
		{"two of the same", override(func(o *leaseholdv1.ItemOverride) { o.Name = "put" }), "gateway.upstreams[1].tools.overrides[1].name", "overrides[0] has the same"},
		{"new name too long", override(func(o *leaseholdv1.ItemOverride) { o.NewName += "x" }), "gateway.upstreams[1].tools.overrides[0].new_name", "at most 128 bytes without control characters; has 129"},
		{"new name with a line break", override(func(o *leaseholdv1.ItemOverride) { o.NewName = "a\n" }), "gateway.upstreams[1].tools.overrides[0].new_name", "control characters"},
		{"new description too long", override(func(o *leaseholdv1.ItemOverride) { o.NewDescription += "x" }), "gateway.upstreams[1].tools.overrides[0].new_description", "at most 8192 bytes; has 8193"},
		{"new name of a resource", web(func(u *leaseholdv1.Upstream) { u.Resources.Overrides[0].NewName = "b" }), "gateway.upstreams[1].resources.overrides[0].new_name", "tools and prompts only; has 1"},
		{"naming of one", alone(naming(keep, "")), "gateway.naming", "several upstreams only; there are 1"},
		{"wait for one", alone(open(time.Second)), "gateway.open_timeout", "several upstreams only"},
		{"lazy alone", only(func(u *leaseholdv1.Upstream) { u.Lazy = true }), "gateway.upstreams[0].lazy", "several upstreams only"},
		{"required alone", only(func(u *leaseholdv1.Upstream) { u.Required = true }), "gateway.upstreams[0].required", "several upstreams only"},
		{"one's wait", only(func(u *leaseholdv1.Upstream) { u.OpenTimeout = durationpb.New(time.Second) }), "gateway.upstreams[0].open_timeout", "several upstreams only"},
		{"one's tools", only(func(u *leaseholdv1.Upstream) { u.Tools = &leaseholdv1.ItemSelection{} }), "gateway.upstreams[0].tools", "several upstreams only"},
		{"one's prompts", only(func(u *leaseholdv1.Upstream) { u.Prompts = &leaseholdv1.ItemSelection{} }), "gateway.upstreams[0].prompts", "several upstreams only"},
		{"one's resources", only(func(u *leaseholdv1.Upstream) { u.Resources = &leaseholdv1.ItemSelection{} }), "gateway.upstreams[0].resources", "several upstreams only"},
		{"one's templates", only(func(u *leaseholdv1.Upstream) { u.ResourceTemplates = &leaseholdv1.ItemSelection{} }), "gateway.upstreams[0].resource_templates", "several upstreams only"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := several()
			tt.change(g)
			got := gateway.Validate(g)
			if tt.field == "" && got.Err() == nil {
				return
			}
			if tt.field == "" || len(got) != 1 || got[0].Field != tt.field || !strings.Contains(got[0].Description, tt.says) {
				t.Errorf("got %v, want %s: …%s…", got, tt.field, tt.says)
			}
		})
	}
}

// upstreams gives the gateway so many.
func upstreams(n int) func(*leaseholdv1.Gateway) {
	return func(g *leaseholdv1.Gateway) {
		for i := len(g.Upstreams); i < n; i++ {
			g.Upstreams = append(g.Upstreams, &leaseholdv1.Upstream{Name: fmt.Sprintf("u%d", i), Url: "http://h/"})
		}
	}
}

func TestDefaultSaysTheRuleOfNamingWhereThereIsOne(t *testing.T) {
	for _, tt := range []struct{ given, want *leaseholdv1.Naming }{
		{nil, nil},
		{&leaseholdv1.Naming{}, &leaseholdv1.Naming{Mode: leaseholdv1.NamingMode_NAMING_MODE_PREFIX, Separator: "_"}},
		{&leaseholdv1.Naming{Separator: "."}, &leaseholdv1.Naming{Mode: leaseholdv1.NamingMode_NAMING_MODE_PREFIX, Separator: "."}},
		{&leaseholdv1.Naming{Mode: leaseholdv1.NamingMode_NAMING_MODE_KEEP}, &leaseholdv1.Naming{Mode: leaseholdv1.NamingMode_NAMING_MODE_KEEP}},
	} {
		g := several()
		g.Naming = proto.CloneOf(tt.given)
		gateway.Default(g)
		if !proto.Equal(g.Naming, tt.want) {
			t.Errorf("%v became %v, want %v", tt.given, g.Naming, tt.want)
		}
		if v := gateway.Validate(g); v.Err() != nil {
			t.Errorf("%v: %v", g.Naming, v)
		}
	}
}
