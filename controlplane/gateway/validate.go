package gateway

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"google.golang.org/protobuf/types/known/durationpb"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// The bounds of a definition.
const (
	MaxDescriptionBytes = 1024
	MaxLabels           = 32
	MaxLabelKeyBytes    = 63
	MaxLabelValueBytes  = 255
	MaxUpstreams        = 32
	MaxURLBytes         = 2048
	MaxRepeatableTools  = 256
	MaxToolNameBytes    = 128
	MaxReconnectRate    = 100_000
	MaxCommandBytes     = 4096
	MaxArgs             = 64
	MaxArgBytes         = 4096
	MaxEnv              = 64
	MaxEnvNameBytes     = 128
	MaxEnvValueBytes    = 4096
	MinResponseTimeout  = time.Second
	MaxResponseTimeout  = 24 * time.Hour
	MinSessionTime      = time.Second
	MaxSessionTime      = 30 * 24 * time.Hour
)

// What a definition gets that does not say otherwise.
const (
	DefaultIdleTimeout      = 30 * time.Minute
	DefaultAbsoluteLifetime = 24 * time.Hour
)

const idRule = "must be 1 to 63 characters of a-z, 0-9 and -, starting with a letter and not ending with -"

// Default fills what g leaves open: transports, the rule of naming if there is one,
// and the times of its sessions.
// Calling it twice is the same as calling it once.
func Default(g *leaseholdv1.Gateway) {
	for _, u := range g.GetUpstreams() {
		if u != nil && u.Transport == leaseholdv1.Transport_TRANSPORT_UNSPECIFIED {
			u.Transport = leaseholdv1.Transport_TRANSPORT_STREAMABLE_HTTP
		}
	}
	defaultNaming(g.Naming)
	if g.Session == nil {
		g.Session = &leaseholdv1.SessionPolicy{}
	}
	if g.Session.IdleTimeout == nil {
		g.Session.IdleTimeout = durationpb.New(DefaultIdleTimeout)
	}
	if g.Session.OnUpstreamLost == leaseholdv1.OnUpstreamLost_ON_UPSTREAM_LOST_UNSPECIFIED {
		g.Session.OnUpstreamLost = leaseholdv1.OnUpstreamLost_ON_UPSTREAM_LOST_FAIL
	}
	if g.Session.AbsoluteLifetime == nil {
		g.Session.AbsoluteLifetime = durationpb.New(DefaultAbsoluteLifetime)
	}
}

// Validate returns everything that is wrong with what an operator may set in g,
// its name included. Fields that only the server sets are not looked at.
func Validate(g *leaseholdv1.Gateway) Violations {
	var v Violations
	if g == nil {
		v.add("gateway", "is required")
		return v
	}
	if _, ok := ParseName(g.Name); !ok {
		v.add("gateway.name", "must be gateways/{gateway}, where the id %s; has %d bytes", idRule, len(g.Name))
	}
	v.text("gateway.description", g.Description, MaxDescriptionBytes)
	v.labels(g.Labels)
	v.upstreams(g.Upstreams)
	v.several(g)
	v.sessionTime("gateway.session.idle_timeout", g.GetSession().GetIdleTimeout())
	v.sessionTime("gateway.session.absolute_lifetime", g.GetSession().GetAbsoluteLifetime())
	if choice := g.GetSession().GetOnUpstreamLost(); leaseholdv1.OnUpstreamLost_name[int32(choice)] == "" {
		v.add("gateway.session.on_upstream_lost", "must be ON_UPSTREAM_LOST_FAIL or ON_UPSTREAM_LOST_REINITIALIZE; is %d", choice)
	}
	return v
}

func (v *Violations) text(field, value string, most int) {
	if len(value) > most {
		v.add(field, "must be at most %d bytes; has %d", most, len(value))
	}
}

func (v *Violations) labels(labels map[string]string) {
	if len(labels) > MaxLabels {
		v.add("gateway.labels", "must have at most %d entries; has %d", MaxLabels, len(labels))
		return
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		field := fmt.Sprintf("gateway.labels[%q]", key[:min(len(key), MaxLabelKeyBytes)])
		if key == "" || len(key) > MaxLabelKeyBytes {
			v.add(field, "the key must be 1 to %d bytes; has %d", MaxLabelKeyBytes, len(key))
		}
		v.text(field, labels[key], MaxLabelValueBytes)
	}
}

func (v *Violations) upstreams(upstreams []*leaseholdv1.Upstream) {
	if n := len(upstreams); n == 0 || n > MaxUpstreams {
		v.add("gateway.upstreams", "must have 1 to %d entries; has %d", MaxUpstreams, n)
	}
	names := make(map[string]int, len(upstreams))
	for i, u := range upstreams {
		if len(*v) >= maxViolations {
			return
		}
		field := fmt.Sprintf("gateway.upstreams[%d]", i)
		v.upstream(field, u)
		v.part(field, u, len(upstreams))
		if first, ok := names[u.GetName()]; ok {
			v.add(field+".name", "must be unique within the gateway; upstreams[%d] has the same", first)
			continue
		}
		names[u.GetName()] = i
	}
}

func (v *Violations) upstream(field string, u *leaseholdv1.Upstream) {
	if !ValidID(u.GetName()) {
		v.add(field+".name", "%s; has %d bytes", idRule, len(u.GetName()))
	}
	v.transport(field, u)
	v.tools(field+".repeatable_tools", u.GetRepeatableTools())
	if rate := u.GetReconnectsPerSecond(); rate < 0 || rate > MaxReconnectRate {
		v.add(field+".reconnects_per_second", "must be 0, for the default, or 1 to %d; is %d", MaxReconnectRate, rate)
	}
	v.time(field+".response_timeout", u.GetResponseTimeout(), MinResponseTimeout, MaxResponseTimeout)
	v.connection(field, u)
}

// transport checks how the upstream is reached: what belongs to another transport
// is refused rather than ignored.
func (v *Violations) transport(field string, u *leaseholdv1.Upstream) {
	switch u.GetTransport() {
	case leaseholdv1.Transport_TRANSPORT_STDIO:
		v.program(field, u)
		return
	case leaseholdv1.Transport_TRANSPORT_UNSPECIFIED, leaseholdv1.Transport_TRANSPORT_STREAMABLE_HTTP, leaseholdv1.Transport_TRANSPORT_SSE:
	default:
		v.add(field+".transport", "must be TRANSPORT_STREAMABLE_HTTP, TRANSPORT_SSE or TRANSPORT_STDIO; is %d", u.GetTransport())
	}
	v.url(field+".url", u.GetUrl())
	if n := len(u.GetCommand()); n > 0 {
		v.add(field+".command", "is for TRANSPORT_STDIO only; has %d bytes", n)
	}
	if n := len(u.GetArgs()); n > 0 {
		v.add(field+".args", "is for TRANSPORT_STDIO only; has %d entries", n)
	}
	if n := len(u.GetEnv()); n > 0 {
		v.add(field+".env", "is for TRANSPORT_STDIO only; has %d entries", n)
	}
}

// program never puts a value into a description, as an argument may be a secret
// in spite of what the field's comment says.
func (v *Violations) program(field string, u *leaseholdv1.Upstream) {
	if n := len(u.GetUrl()); n > 0 {
		v.add(field+".url", "must be empty with TRANSPORT_STDIO; has %d bytes", n)
	}
	if n := len(u.GetCommand()); n == 0 || n > MaxCommandBytes || strings.ContainsRune(u.GetCommand(), 0) {
		v.add(field+".command", "must be 1 to %d bytes without NUL; has %d", MaxCommandBytes, n)
	}
	if n := len(u.GetArgs()); n > MaxArgs {
		v.add(field+".args", "must have at most %d entries; has %d", MaxArgs, n)
		return
	}
	for i, arg := range u.GetArgs() {
		if len(arg) > MaxArgBytes || strings.ContainsRune(arg, 0) {
			v.add(fmt.Sprintf("%s.args[%d]", field, i), "must be at most %d bytes without NUL; has %d", MaxArgBytes, len(arg))
		}
	}
	v.env(field+".env", u.GetEnv())
}

func (v *Violations) env(field string, env map[string]string) {
	if len(env) > MaxEnv {
		v.add(field, "must have at most %d entries; has %d", MaxEnv, len(env))
		return
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		at := fmt.Sprintf("%s[%q]", field, name[:min(len(name), MaxEnvNameBytes)])
		if name == "" || len(name) > MaxEnvNameBytes || strings.ContainsAny(name, "=\x00") {
			v.add(at, "the name must be 1 to %d bytes without = and NUL; has %d", MaxEnvNameBytes, len(name))
		}
		if value := env[name]; len(value) > MaxEnvValueBytes || strings.ContainsRune(value, 0) {
			v.add(at, "must be at most %d bytes without NUL; has %d", MaxEnvValueBytes, len(value))
		}
	}
}

// tools checks names of tools. What MCP says of their form is advice: whatever a
// server may call a tool is taken, but for what cannot be meant.
func (v *Violations) tools(field string, names []string) {
	if len(names) > MaxRepeatableTools {
		v.add(field, "must have at most %d entries; has %d", MaxRepeatableTools, len(names))
		return
	}
	seen := make(map[string]int, len(names))
	for i, name := range names {
		at := fmt.Sprintf("%s[%d]", field, i)
		if name == "" || len(name) > MaxToolNameBytes {
			v.add(at, "must be 1 to %d bytes; has %d", MaxToolNameBytes, len(name))
		}
		if strings.ContainsFunc(name, unicode.IsControl) {
			v.add(at, "must not have control characters; has %d bytes", len(name))
		}
		if first, ok := seen[name]; ok {
			v.add(at, "must be unique; repeatable_tools[%d] is the same", first)
			continue
		}
		seen[name] = i
	}
}

// url never puts the value into a description: it may carry a secret.
func (v *Violations) url(field, raw string) {
	if raw == "" || len(raw) > MaxURLBytes {
		v.add(field, "must be 1 to %d bytes; has %d", MaxURLBytes, len(raw))
		return
	}
	u, err := url.Parse(raw)
	if err != nil {
		v.add(field, "must be an absolute http or https URL; its %d bytes do not parse as a URL", len(raw))
		return
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		v.add(field, "must be an absolute http or https URL; has %d bytes and the scheme is neither", len(raw))
	}
	if u.Hostname() == "" || u.Opaque != "" {
		v.add(field, "must name a host; its %d bytes name none", len(raw))
	}
	if isOddAddress(u.Hostname()) {
		v.add(field, "must have an IPv4 address as four decimal numbers without leading zeros, such as 192.0.2.1; the host has %d bytes", len(u.Hostname()))
	}
	if !validPort(u) {
		v.add(field, "the port must be 1 to 65535; has %d bytes", len(u.Port()))
	}
	if u.User != nil {
		v.add(field, "must not have user info; its %d bytes have it", len(raw))
	}
	if strings.Contains(raw, "#") {
		v.add(field, "must not have a fragment; has one of %d bytes", len(raw)-strings.Index(raw, "#")-1)
	}
}

// isOddAddress reports whether host is a number in a spelling that some resolvers
// take for an address, such as 0x7f.1 and 2130706433, and others for a name.
func isOddAddress(host string) bool {
	if _, err := netip.ParseAddr(host); err == nil {
		return false
	}
	host = strings.TrimSuffix(host, ".")
	last := host[strings.LastIndexByte(host, '.')+1:]
	if last == "" {
		return false
	}
	if rest, hex := strings.CutPrefix(strings.ToLower(last), "0x"); hex {
		return strings.Trim(rest, "0123456789abcdef") == ""
	}
	return strings.Trim(last, "0123456789") == ""
}

func validPort(u *url.URL) bool {
	if u.Port() == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	return err == nil && port > 0
}

func (v *Violations) sessionTime(field string, d *durationpb.Duration) {
	v.time(field, d, MinSessionTime, MaxSessionTime)
}

func (v *Violations) time(field string, d *durationpb.Duration, least, most time.Duration) {
	if d == nil {
		return
	}
	if err := d.CheckValid(); err != nil {
		v.add(field, "must be between %s and %s; is not a valid duration (%d s, %d ns)", least, most, d.GetSeconds(), d.GetNanos())
		return
	}
	if t := d.AsDuration(); t < least || t > most {
		v.add(field, "must be between %s and %s; is %s", least, most, t)
	}
}
