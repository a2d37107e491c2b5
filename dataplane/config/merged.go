package config

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/leasehold/leasehold/dataplane/catalogue"
	"github.com/leasehold/leasehold/dataplane/credential"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Defaults of how long opening may take: of initialize for several upstreams, and of
// a session at one of them.
const (
	DefaultOpenTimeout     = 5 * time.Second
	DefaultPartOpenTimeout = 30 * time.Second
)

// Merged is what makes one server of several upstreams.
type Merged struct {
	// Parts are the upstreams in the order of the definition, at least two.
	Parts []*Upstream
	// OpenTimeout is how long initialize waits for them.
	OpenTimeout time.Duration
	// Policy says which of their items there are and how they are called; its
	// upstreams are Parts.
	Policy *catalogue.Policy
	// Connections identifies how all of them are reached: it changes when the Fingerprint
	// of one does, or one is added or removed.
	Connections [16]byte
	// Revision is that of the definition.
	Revision int64
}

// Real returns the upstreams of the gateway that are servers: those that are merged,
// or the only one.
func (g *Gateway) Real() []*Upstream {
	if g.Upstream.Merged != nil {
		return g.Upstream.Merged.Parts
	}
	return []*Upstream{g.Upstream}
}

// Connections identifies how the upstreams of the gateway are reached.
func (g *Gateway) Connections() [16]byte {
	if g.Upstream.Merged != nil {
		return g.Upstream.Merged.Connections
	}
	return g.Upstream.Fingerprint
}

// connections returns Connections of parts, whatever their order.
func connections(parts []*Upstream) [16]byte {
	each := make([]string, len(parts))
	for i, part := range parts {
		each[i] = fmt.Sprintf("%s\x00%x", part.Name, part.Fingerprint)
	}
	slices.Sort(each)
	sum := sha256.Sum256([]byte("connections/1\x00" + strings.Join(each, "\x00")))
	return [16]byte(sum[:16])
}

// compileUpstreams returns the upstream that sessions of a gateway have: the only
// one, or what makes one of several.
func compileUpstreams(id string, definition *leaseholdv1.Gateway) (*Upstream, error) {
	if len(definition.GetUpstreams()) == 0 {
		return nil, credential.At("upstreams", errors.New("none given, at least 1 is needed"))
	}
	var parts []*Upstream
	for i, u := range definition.GetUpstreams() {
		part, err := compileUpstream(u)
		if err != nil {
			return nil, credential.At(fmt.Sprintf("upstreams[%d]", i), err)
		}
		part.Gateway = id
		parts = append(parts, part)
	}
	if len(parts) == 1 {
		return parts[0], nil
	}
	for i, u := range definition.GetUpstreams() {
		parts[i].Lazy, parts[i].Required, parts[i].OpenTimeout = u.GetLazy(), u.GetRequired(), DefaultPartOpenTimeout
		if d := u.GetOpenTimeout(); d != nil {
			parts[i].OpenTimeout = d.AsDuration()
		}
	}
	return merge(id, definition, parts), nil
}

// merge returns the upstream that stands for parts. What it is does not change with
// them: their own fingerprints say which of them are to be opened anew.
func merge(id string, definition *leaseholdv1.Gateway, parts []*Upstream) *Upstream {
	m := &Merged{
		Parts: parts, OpenTimeout: DefaultOpenTimeout,
		Policy: compilePolicy(definition), Connections: connections(parts), Revision: definition.GetStatus().GetRevision(),
	}
	if d := definition.GetOpenTimeout(); d != nil {
		m.OpenTimeout = d.AsDuration()
	}
	sum := sha256.Sum256([]byte("merged/1\x00" + id))
	u := &Upstream{Gateway: id, Name: id, Fingerprint: [16]byte(sum[:16]), Merged: m, Repeatable: m.repeatable()}
	perSecond := rate.Inf
	for _, part := range parts {
		u.ResponseTimeout = max(u.ResponseTimeout, part.ResponseTimeout)
		perSecond = min(perSecond, part.Reconnects.Limit())
	}
	u.Reconnects = rate.NewLimiter(perSecond, max(1, int(perSecond)/10))
	return u
}

// repeatable returns the tools that are safe to call twice, as clients call them:
// whichever upstream such a name leads to.
func (m *Merged) repeatable() map[string]bool {
	all := make(map[string]bool)
	for i, part := range m.Parts {
		for tool := range part.Repeatable {
			if name := m.Policy.ClientName(catalogue.Tools, i, tool); m.alwaysRepeatable(name) {
				all[name] = true
			}
		}
	}
	return all
}

func (m *Merged) alwaysRepeatable(name string) bool {
	for _, t := range m.Policy.Candidates(catalogue.Tools, name) {
		if !m.Parts[t.Upstream].Repeatable[t.Name] {
			return false
		}
	}
	return true
}

func compilePolicy(definition *leaseholdv1.Gateway) *catalogue.Policy {
	c := catalogue.Config{Mode: catalogue.Prefix, Separator: definition.GetNaming().GetSeparator()}
	if definition.GetNaming().GetMode() == leaseholdv1.NamingMode_NAMING_MODE_KEEP {
		c.Mode = catalogue.Keep
	}
	for _, u := range definition.GetUpstreams() {
		c.Upstreams = append(c.Upstreams, catalogue.Upstream{Name: u.GetName(), Select: [catalogue.Kinds]catalogue.Selection{
			catalogue.Tools:     compileSelection(u.GetTools()),
			catalogue.Prompts:   compileSelection(u.GetPrompts()),
			catalogue.Resources: compileSelection(u.GetResources()),
			catalogue.Templates: compileSelection(u.GetResourceTemplates()),
		}})
	}
	return catalogue.NewPolicy(c)
}

func compileSelection(s *leaseholdv1.ItemSelection) catalogue.Selection {
	own := catalogue.Selection{Include: s.GetInclude(), Exclude: s.GetExclude(), Overrides: make(map[string]catalogue.Override, len(s.GetOverrides()))}
	for _, o := range s.GetOverrides() {
		own.Overrides[o.GetName()] = catalogue.Override{Name: o.GetNewName(), Description: o.GetNewDescription(), Hide: o.GetHide()}
	}
	return own
}
