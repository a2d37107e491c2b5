package gateway

import (
	"fmt"
	"strings"
	"time"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// The bounds of what a definition says of several upstreams and their items.
const (
	MaxSeparatorBytes       = 4
	MinOpenTimeout          = 100 * time.Millisecond
	MaxOpenTimeout          = time.Minute
	MaxUpstreamOpenTimeout  = 5 * time.Minute
	MaxPatterns             = 256
	MaxItemNameBytes        = 1024
	MaxOverrides            = 256
	MaxItemDescriptionBytes = 8192
)

// DefaultSeparator stands between the names of upstream and item.
const DefaultSeparator = "_"

const severalOnly = "is for several upstreams only"

func defaultNaming(n *leaseholdv1.Naming) {
	if n == nil {
		return
	}
	if n.Mode == leaseholdv1.NamingMode_NAMING_MODE_UNSPECIFIED {
		n.Mode = leaseholdv1.NamingMode_NAMING_MODE_PREFIX
	}
	if n.Mode == leaseholdv1.NamingMode_NAMING_MODE_PREFIX && n.Separator == "" {
		n.Separator = DefaultSeparator
	}
}

// several checks what is said of all upstreams together.
func (v *Violations) several(g *leaseholdv1.Gateway) {
	if n := len(g.GetUpstreams()); n < 2 {
		if g.GetNaming() != nil {
			v.add("gateway.naming", severalOnly+"; there are %d", n)
		}
		if g.GetOpenTimeout() != nil {
			v.add("gateway.open_timeout", severalOnly+"; there are %d", n)
		}
		return
	}
	v.time("gateway.open_timeout", g.GetOpenTimeout(), MinOpenTimeout, MaxOpenTimeout)
	mode, separator := g.GetNaming().GetMode(), g.GetNaming().GetSeparator()
	switch mode {
	case leaseholdv1.NamingMode_NAMING_MODE_UNSPECIFIED, leaseholdv1.NamingMode_NAMING_MODE_PREFIX:
		if len(separator) > MaxSeparatorBytes || strings.ContainsFunc(separator, notForSeparator) {
			v.add("gateway.naming.separator", "must be 1 to %d characters of A-Z, a-z, 0-9, _, - and a dot, or empty for %s; has %d bytes", MaxSeparatorBytes, DefaultSeparator, len(separator))
		}
	case leaseholdv1.NamingMode_NAMING_MODE_KEEP:
		if separator != "" {
			v.add("gateway.naming.separator", "must be empty with NAMING_MODE_KEEP; has %d bytes", len(separator))
		}
	default:
		v.add("gateway.naming.mode", "must be NAMING_MODE_PREFIX or NAMING_MODE_KEEP; is %d", mode)
	}
}

func notForSeparator(r rune) bool { return r != '-' && r != '.' && notForEnv(r) }

// part checks what is said of one of so many upstreams that is for several only.
func (v *Violations) part(field string, u *leaseholdv1.Upstream, upstreams int) {
	if upstreams < 2 {
		v.single(field, u)
		return
	}
	if u.GetLazy() && u.GetRequired() {
		v.add(field+".required", "must not be set with lazy: what is opened at its first use is not waited for")
	}
	v.time(field+".open_timeout", u.GetOpenTimeout(), MinOpenTimeout, MaxUpstreamOpenTimeout)
	v.selection(field+".tools", u.GetTools(), true)
	v.selection(field+".prompts", u.GetPrompts(), true)
	v.selection(field+".resources", u.GetResources(), false)
	v.selection(field+".resource_templates", u.GetResourceTemplates(), false)
}

// single checks that nothing is said of the only upstream that is for several.
func (v *Violations) single(field string, u *leaseholdv1.Upstream) {
	for _, f := range []struct {
		name string
		said bool
	}{
		{"lazy", u.GetLazy()}, {"required", u.GetRequired()}, {"open_timeout", u.GetOpenTimeout() != nil},
		{"tools", u.GetTools() != nil}, {"prompts", u.GetPrompts() != nil},
		{"resources", u.GetResources() != nil}, {"resource_templates", u.GetResourceTemplates() != nil},
	} {
		if f.said {
			v.add(field+"."+f.name, severalOnly+"; there is 1")
		}
	}
}

// selection checks which items of a kind are asked for. Those with a new name are
// tools and prompts.
func (v *Violations) selection(field string, s *leaseholdv1.ItemSelection, named bool) {
	v.patterns(field+".include", s.GetInclude())
	v.patterns(field+".exclude", s.GetExclude())
	if n := len(s.GetOverrides()); n > MaxOverrides {
		v.add(field+".overrides", "must have at most %d entries; has %d", MaxOverrides, n)
		return
	}
	seen := make(map[string]int, len(s.GetOverrides()))
	for i, o := range s.GetOverrides() {
		at := fmt.Sprintf("%s.overrides[%d]", field, i)
		v.override(at, o, named)
		if first, ok := seen[o.GetName()]; ok {
			v.add(at+".name", "must be unique; overrides[%d] has the same", first)
			continue
		}
		seen[o.GetName()] = i
	}
}

func (v *Violations) patterns(field string, patterns []string) {
	if len(patterns) > MaxPatterns {
		v.add(field, "must have at most %d entries; has %d", MaxPatterns, len(patterns))
		return
	}
	for i, pattern := range patterns {
		v.itemName(fmt.Sprintf("%s[%d]", field, i), pattern)
	}
}

func (v *Violations) override(field string, o *leaseholdv1.ItemOverride, named bool) {
	v.itemName(field+".name", o.GetName())
	switch name := o.GetNewName(); {
	case name != "" && !named:
		v.add(field+".new_name", "is for tools and prompts only; has %d bytes", len(name))
	case len(name) > MaxToolNameBytes || hasControl(name):
		v.add(field+".new_name", "must be at most %d bytes without control characters; has %d", MaxToolNameBytes, len(name))
	}
	v.text(field+".new_description", o.GetNewDescription(), MaxItemDescriptionBytes)
}

func (v *Violations) itemName(field, name string) {
	if name == "" || len(name) > MaxItemNameBytes {
		v.add(field, "must be 1 to %d bytes; has %d", MaxItemNameBytes, len(name))
	}
}
