package gateway_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"github.com/leasehold/leasehold/controlplane/gateway"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func valid() *leaseholdv1.Gateway {
	return &leaseholdv1.Gateway{
		Name:        "gateways/counter",
		Description: "counts",
		Labels:      map[string]string{"team": "a"},
		Upstreams:   []*leaseholdv1.Upstream{{Name: "counter", Url: "http://127.0.0.1:9000/mcp?a=b"}},
		Session:     &leaseholdv1.SessionPolicy{IdleTimeout: durationpb.New(time.Minute)},
	}
}

func TestValidate(t *testing.T) {
	long := strings.Repeat("x", 70)
	url := func(u string) func(*leaseholdv1.Gateway) {
		return func(g *leaseholdv1.Gateway) { g.Upstreams[0].Url = u }
	}
	idle := func(d *durationpb.Duration) func(*leaseholdv1.Gateway) {
		return func(g *leaseholdv1.Gateway) { g.Session.IdleTimeout = d }
	}
	tools := func(names ...string) func(*leaseholdv1.Gateway) {
		return func(g *leaseholdv1.Gateway) { g.Upstreams[0].RepeatableTools = names }
	}
	rate := func(n int32) func(*leaseholdv1.Gateway) {
		return func(g *leaseholdv1.Gateway) { g.Upstreams[0].ReconnectsPerSecond = n }
	}
	tests := []struct {
		name   string
		change func(*leaseholdv1.Gateway)
		field  string // empty for valid
		says   string
	}{
		{"valid", func(*leaseholdv1.Gateway) {}, "", ""},
		{"no name", func(g *leaseholdv1.Gateway) { g.Name = "" }, "gateway.name", "has 0 bytes"},
		{"no prefix", func(g *leaseholdv1.Gateway) { g.Name = "counter" }, "gateway.name", "has 7 bytes"},
		{"upper case", func(g *leaseholdv1.Gateway) { g.Name = "gateways/Counter" }, "gateway.name", "a-z"},
		{"begins with a digit", func(g *leaseholdv1.Gateway) { g.Name = "gateways/1a" }, "gateway.name", "a-z"},
		{"ends with a hyphen", func(g *leaseholdv1.Gateway) { g.Name = "gateways/a-" }, "gateway.name", "a-z"},
		{"longest name", func(g *leaseholdv1.Gateway) { g.Name = "gateways/" + long[:63] }, "", ""},
		{"name too long", func(g *leaseholdv1.Gateway) { g.Name = "gateways/" + long[:64] }, "gateway.name", "has 73 bytes"},
		{"longest description", func(g *leaseholdv1.Gateway) { g.Description = strings.Repeat("x", 1024) }, "", ""},
		{"description too long", func(g *leaseholdv1.Gateway) { g.Description = strings.Repeat("x", 1025) }, "gateway.description", "at most 1024 bytes; has 1025"},
		{"too many labels", func(g *leaseholdv1.Gateway) { g.Labels = manyLabels(33) }, "gateway.labels", "at most 32 entries; has 33"},
		{"label key too long", func(g *leaseholdv1.Gateway) { g.Labels = map[string]string{long: ""} }, `gateway.labels["` + long[:63] + `"]`, "1 to 63 bytes; has 70"},
		{"label key empty", func(g *leaseholdv1.Gateway) { g.Labels = map[string]string{"": ""} }, `gateway.labels[""]`, "1 to 63 bytes; has 0"},
		{"label value too long", func(g *leaseholdv1.Gateway) { g.Labels = map[string]string{"a": strings.Repeat("x", 256)} }, `gateway.labels["a"]`, "at most 255 bytes; has 256"},
		{"no upstream", func(g *leaseholdv1.Gateway) { g.Upstreams = nil }, "gateway.upstreams", "1 to 32 entries; has 0"},
		{"no upstream name", func(g *leaseholdv1.Gateway) { g.Upstreams[0].Name = "" }, "gateway.upstreams[0].name", "has 0 bytes"},
		{"nil upstream", func(g *leaseholdv1.Gateway) { g.Upstreams[0] = nil }, "gateway.upstreams[0].url", "has 0"},
		{"unknown transport", func(g *leaseholdv1.Gateway) { g.Upstreams[0].Transport = 9 }, "gateway.upstreams[0].transport", "is 9"},
		{"most tools", tools(manyTools(256)...), "", ""},
		{"too many tools", tools(manyTools(257)...), "gateway.upstreams[0].repeatable_tools", "at most 256 entries; has 257"},
		{"longest tool", tools(strings.Repeat("x", 128)), "", ""},
		{"tool too long", tools(strings.Repeat("x", 129)), "gateway.upstreams[0].repeatable_tools[0]", "1 to 128 bytes; has 129"},
		{"tool without a name", tools("a", ""), "gateway.upstreams[0].repeatable_tools[1]", "1 to 128 bytes; has 0"},
		{"tool twice", tools("a", "b", "a"), "gateway.upstreams[0].repeatable_tools[2]", "repeatable_tools[0] is the same"},
		{"tools that differ in case", tools("a", "A"), "", ""},
		{"tool of several words", tools("get a thing/v1"), "", ""},
		{"tool with a line break", tools("secret\n"), "gateway.upstreams[0].repeatable_tools[0]", "control characters; has 7 bytes"},
		{"tool with a NUL", tools("a\x00"), "gateway.upstreams[0].repeatable_tools[0]", "control characters"},
		{"lowest rate", rate(1), "", ""},
		{"highest rate", rate(100_000), "", ""},
		{"rate too high", rate(100_001), "gateway.upstreams[0].reconnects_per_second", "1 to 100000; is 100001"},
		{"negative rate", rate(-1), "gateway.upstreams[0].reconnects_per_second", "is -1"},
		{"no url", url(""), "gateway.upstreams[0].url", "1 to 2048 bytes; has 0"},
		{"longest url", url("http://h/" + strings.Repeat("x", 2048-9)), "", ""},
		{"url too long", url("http://h/" + strings.Repeat("x", 2048-8)), "gateway.upstreams[0].url", "1 to 2048 bytes; has 2049"},
		{"url does not parse", url("http://h/%zz"), "gateway.upstreams[0].url", "12 bytes do not parse"},
		{"relative url", url("/mcp"), "gateway.upstreams[0].url", "absolute http or https"},
		{"other scheme", url("ftp://h/"), "gateway.upstreams[0].url", "absolute http or https"},
		{"opaque url", url("http:h"), "gateway.upstreams[0].url", "name a host"},
		{"no host", url("http://:80/"), "gateway.upstreams[0].url", "name a host"},
		{"user info", url("http://secret@h/"), "gateway.upstreams[0].url", "user info"},
		{"fragment", url("http://h/#frag"), "gateway.upstreams[0].url", "fragment; has one of 4 bytes"},
		{"empty fragment", url("http://h/#"), "gateway.upstreams[0].url", "fragment"},
		{"port 0", url("http://h:0/"), "gateway.upstreams[0].url", "port"},
		{"port too large", url("http://h:65536/"), "gateway.upstreams[0].url", "port"},
		{"empty port", url("http://h:/"), "gateway.upstreams[0].url", "port"},
		{"IPv6", url("https://[::1]:9000/mcp"), "", ""},
		{"shortest idle timeout", idle(durationpb.New(time.Second)), "", ""},
		{"longest idle timeout", idle(durationpb.New(30 * 24 * time.Hour)), "", ""},
		{"idle timeout too short", idle(durationpb.New(999 * time.Millisecond)), "gateway.session.idle_timeout", "is 999ms"},
		{"idle timeout too long", idle(durationpb.New(30*24*time.Hour + 1)), "gateway.session.idle_timeout", "between 1s and 720h0m0s"},
		{"negative idle timeout", idle(durationpb.New(-1)), "gateway.session.idle_timeout", "is -1ns"},
		{"impossible idle timeout", idle(&durationpb.Duration{Seconds: math.MaxInt64, Nanos: -1}), "gateway.session.idle_timeout", "not a valid duration"},
		{"legacy transport", func(g *leaseholdv1.Gateway) { g.Upstreams[0].Transport = leaseholdv1.Transport_TRANSPORT_SSE }, "", ""},
		{"program", program(func(*leaseholdv1.Upstream) {}), "", ""},
		{"program with a url", program(func(u *leaseholdv1.Upstream) { u.Url = "http://secret/" }), "gateway.upstreams[0].url", "must be empty with TRANSPORT_STDIO; has 14 bytes"},
		{"no command", program(func(u *leaseholdv1.Upstream) { u.Command = "" }), "gateway.upstreams[0].command", "1 to 4096 bytes without NUL; has 0"},
		{"command too long", program(func(u *leaseholdv1.Upstream) { u.Command = strings.Repeat("x", 4097) }), "gateway.upstreams[0].command", "has 4097"},
		{"command of another transport", func(g *leaseholdv1.Gateway) { g.Upstreams[0].Command = "secret" }, "gateway.upstreams[0].command", "is for TRANSPORT_STDIO only; has 6 bytes"},
		{"args of another transport", func(g *leaseholdv1.Gateway) { g.Upstreams[0].Args = []string{"secret"} }, "gateway.upstreams[0].args", "only; has 1"},
		{"env of another transport", func(g *leaseholdv1.Gateway) { g.Upstreams[0].Env = map[string]string{"A": "secret"} }, "gateway.upstreams[0].env", "only; has 1"},
		{"most args", program(func(u *leaseholdv1.Upstream) { u.Args = make([]string, 64) }), "", ""},
		{"too many args", program(func(u *leaseholdv1.Upstream) { u.Args = make([]string, 65) }), "gateway.upstreams[0].args", "at most 64 entries; has 65"},
		{"arg too long", program(func(u *leaseholdv1.Upstream) { u.Args = []string{"", strings.Repeat("x", 4097)} }), "gateway.upstreams[0].args[1]", "has 4097"},
		{"arg with a NUL", program(func(u *leaseholdv1.Upstream) { u.Args = []string{"secret\x00"} }), "gateway.upstreams[0].args[0]", "without NUL"},
		{"env name with =", program(func(u *leaseholdv1.Upstream) { u.Env = map[string]string{"A=B": ""} }), `gateway.upstreams[0].env["A=B"]`, "without = and NUL"},
		{"env value too long", program(func(u *leaseholdv1.Upstream) { u.Env = map[string]string{"A": strings.Repeat("x", 4097)} }), `gateway.upstreams[0].env["A"]`, "has 4097"},
		{"shortest response timeout", timeout(time.Second), "", ""},
		{"longest response timeout", timeout(24 * time.Hour), "", ""},
		{"response timeout too short", timeout(time.Millisecond), "gateway.upstreams[0].response_timeout", "is 1ms"},
		{"response timeout too long", timeout(25 * time.Hour), "gateway.upstreams[0].response_timeout", "is 25h0m0s"},
		{"unknown policy", func(g *leaseholdv1.Gateway) { g.Session.OnUpstreamLost = 7 }, "gateway.session.on_upstream_lost", "is 7"},
		{"lifetime too short", func(g *leaseholdv1.Gateway) { g.Session.AbsoluteLifetime = durationpb.New(0) }, "gateway.session.absolute_lifetime", "is 0s"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := valid()
			tt.change(g)
			got := gateway.Validate(g)
			if tt.field == "" {
				if got.Err() != nil {
					t.Errorf("got %v, want no violation", got)
				}
				return
			}
			for _, v := range got {
				if v.Field == tt.field && strings.Contains(v.Description, tt.says) {
					if strings.Contains(v.Description, "secret") {
						t.Errorf("violation shows the value: %v", v)
					}
					return
				}
			}
			t.Errorf("got %v, want %s: …%s…", got, tt.field, tt.says)
		})
	}
}

// program makes the upstream a program and changes it.
func program(change func(*leaseholdv1.Upstream)) func(*leaseholdv1.Gateway) {
	return func(g *leaseholdv1.Gateway) {
		u := g.Upstreams[0]
		u.Url, u.Transport, u.Command = "", leaseholdv1.Transport_TRANSPORT_STDIO, "server"
		change(u)
	}
}

func timeout(d time.Duration) func(*leaseholdv1.Gateway) {
	return func(g *leaseholdv1.Gateway) { g.Upstreams[0].ResponseTimeout = durationpb.New(d) }
}

func manyLabels(n int) map[string]string {
	labels := make(map[string]string, n)
	for i := range n {
		labels[strings.Repeat("x", i+1)] = ""
	}
	return labels
}

func manyTools(n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("tool-%d", i)
	}
	return names
}

func TestAllViolationsAtOnce(t *testing.T) {
	g := &leaseholdv1.Gateway{
		Description: strings.Repeat("x", 2000),
		Upstreams:   []*leaseholdv1.Upstream{{Name: "same", Url: "x"}, {Name: "same", Url: "ftp://h"}},
		Session:     &leaseholdv1.SessionPolicy{IdleTimeout: durationpb.New(0), AbsoluteLifetime: durationpb.New(0)},
	}
	for i := range 31 {
		g.Upstreams = append(g.Upstreams, &leaseholdv1.Upstream{Name: fmt.Sprintf("u%d", i), Url: "http://h"})
	}
	fields := make(map[string]bool)
	for _, v := range gateway.Validate(g) {
		fields[v.Field] = true
	}
	for _, want := range []string{
		"gateway.name", "gateway.description", "gateway.upstreams", "gateway.upstreams[0].url", "gateway.upstreams[1].url",
		"gateway.upstreams[1].name", "gateway.session.idle_timeout", "gateway.session.absolute_lifetime",
	} {
		if !fields[want] {
			t.Errorf("%s is not among %v", want, fields)
		}
	}
	if len(gateway.Validate(nil)) != 1 {
		t.Error("no gateway at all is not one violation")
	}
	g.Upstreams = make([]*leaseholdv1.Upstream, 100_000)
	if n := len(gateway.Validate(g)); n > 200 {
		t.Errorf("%d violations reported, want a bounded number", n)
	}
}

func TestDefault(t *testing.T) {
	g := &leaseholdv1.Gateway{Upstreams: []*leaseholdv1.Upstream{{}}}
	gateway.Default(g)
	if g.Session.IdleTimeout.AsDuration() != 30*time.Minute || g.Session.AbsoluteLifetime.AsDuration() != 24*time.Hour {
		t.Errorf("session %v, want 30 min and 24 h", g.Session)
	}
	if g.Upstreams[0].Transport != leaseholdv1.Transport_TRANSPORT_STREAMABLE_HTTP {
		t.Errorf("transport %v, want streamable HTTP", g.Upstreams[0].Transport)
	}
	again := proto.CloneOf(g)
	gateway.Default(again)
	gateway.Default(g)
	if !proto.Equal(g, again) {
		t.Error("filling defaults twice differs from once")
	}
}

func TestApply(t *testing.T) {
	stored := valid()
	stored.Session.AbsoluteLifetime = durationpb.New(time.Hour)
	change := &leaseholdv1.Gateway{
		Name:        stored.Name,
		Description: "new",
		Upstreams:   []*leaseholdv1.Upstream{{Name: "other", Url: "http://other/"}},
		Session: &leaseholdv1.SessionPolicy{IdleTimeout: durationpb.New(2 * time.Minute),
			OnUpstreamLost: leaseholdv1.OnUpstreamLost_ON_UPSTREAM_LOST_REINITIALIZE},
		Naming:      &leaseholdv1.Naming{Mode: leaseholdv1.NamingMode_NAMING_MODE_KEEP},
		OpenTimeout: durationpb.New(time.Second),
	}
	before, beforeChange := proto.CloneOf(stored), proto.CloneOf(change)
	tests := []struct {
		mask []string
		want func(*leaseholdv1.Gateway)
	}{
		{[]string{"description"}, func(g *leaseholdv1.Gateway) { g.Description = "new" }},
		{[]string{"labels"}, func(g *leaseholdv1.Gateway) { g.Labels = nil }},
		{[]string{"upstreams"}, func(g *leaseholdv1.Gateway) { g.Upstreams = change.Upstreams }},
		{[]string{"session.idle_timeout"}, func(g *leaseholdv1.Gateway) { g.Session.IdleTimeout = durationpb.New(2 * time.Minute) }},
		{[]string{"session.absolute_lifetime"}, func(g *leaseholdv1.Gateway) { g.Session.AbsoluteLifetime = nil }},
		{[]string{"session.on_upstream_lost"}, func(g *leaseholdv1.Gateway) {
			g.Session.OnUpstreamLost = leaseholdv1.OnUpstreamLost_ON_UPSTREAM_LOST_REINITIALIZE
		}},
		{[]string{"naming"}, func(g *leaseholdv1.Gateway) { g.Naming = change.Naming }},
		{[]string{"open_timeout"}, func(g *leaseholdv1.Gateway) { g.OpenTimeout = durationpb.New(time.Second) }},
		{[]string{"session"}, func(g *leaseholdv1.Gateway) { g.Session = change.Session }},
		{[]string{"description", "labels"}, func(g *leaseholdv1.Gateway) { g.Description, g.Labels = "new", nil }},
		{[]string{"*"}, func(g *leaseholdv1.Gateway) { proto.Reset(g); proto.Merge(g, change) }},
		{nil, func(g *leaseholdv1.Gateway) {
			g.Description, g.Labels, g.Upstreams, g.Session = "new", nil, change.Upstreams, change.Session
			g.Naming, g.OpenTimeout = change.Naming, change.OpenTimeout
		}},
	}
	for _, tt := range tests {
		mask := &fieldmaskpb.FieldMask{Paths: tt.mask}
		if v := gateway.CheckMask(mask); v.Err() != nil {
			t.Errorf("%v: %v", tt.mask, v)
		}
		want := proto.CloneOf(before)
		tt.want(want)
		want = proto.CloneOf(want)
		gateway.Default(want)
		if got := gateway.Apply(stored, change, mask); !proto.Equal(got, want) {
			t.Errorf("%v: got %v, want %v", tt.mask, got, want)
		}
	}
	if !proto.Equal(stored, before) || !proto.Equal(change, beforeChange) {
		t.Error("Apply changed its arguments")
	}
}

func TestCheckMaskNamesEachBadPath(t *testing.T) {
	mask := &fieldmaskpb.FieldMask{Paths: []string{"description", "name", "etag", "nonsense", "upstreams.url"}}
	got := gateway.CheckMask(mask)
	if len(got) != 4 || got[0].Field != "update_mask.paths[1]" || got[3].Field != "update_mask.paths[4]" {
		t.Errorf("got %v, want paths 1 to 4", got)
	}
}

func TestETagsDiffer(t *testing.T) {
	seen := map[string]bool{}
	for revision := range int64(100) {
		seen[gateway.ETag(revision)] = true
	}
	if len(seen) != 100 {
		t.Errorf("100 revisions have %d etags", len(seen))
	}
}

func FuzzValidate(f *testing.F) {
	f.Add([]byte{}, "http://h/")
	seed, _ := proto.Marshal(valid())
	f.Add(seed, "http://[::1%25en0]:80/?#")
	f.Fuzz(func(t *testing.T, data []byte, url string) {
		g := &leaseholdv1.Gateway{}
		if proto.Unmarshal(data, g) != nil {
			g = valid()
		}
		g.Upstreams = append(g.Upstreams, &leaseholdv1.Upstream{Url: url})
		gateway.Validate(g)
		gateway.Default(g)
		gateway.Validate(g)
	})
}

// TestEveryFieldThatAnOperatorMaySetIsInAMask walks the definition, so that none is
// forgotten.
func TestEveryFieldThatAnOperatorMaySetIsInAMask(t *testing.T) {
	server := map[string]bool{"name": true, "etag": true, "create_time": true, "update_time": true, "status": true}
	var paths []string
	for fields, i := (&leaseholdv1.Gateway{}).ProtoReflect().Descriptor().Fields(), 0; i < fields.Len(); i++ {
		if name := string(fields.Get(i).Name()); !server[name] {
			paths = append(paths, name)
		}
	}
	for fields, i := (&leaseholdv1.SessionPolicy{}).ProtoReflect().Descriptor().Fields(), 0; i < fields.Len(); i++ {
		paths = append(paths, "session."+string(fields.Get(i).Name()))
	}
	if v := gateway.CheckMask(&fieldmaskpb.FieldMask{Paths: paths}); v.Err() != nil {
		t.Errorf("%v: %v", paths, v)
	}
}
