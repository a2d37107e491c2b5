package merge

import (
	"slices"
	"strings"

	"github.com/leasehold/leasehold/dataplane/catalogue"
	"github.com/leasehold/leasehold/dataplane/mcp"
)

// maxAllInstructions bounds the instructions of all parts together.
const maxAllInstructions = 32 << 10

// resultLocked returns the result of initialize: what the parts that are there have
// together. Of a part that is not there counts what it had last; if nobody knows that, it
// may have lists.
func (m *merged) resultLocked() []byte {
	var all []*offers
	var instructions strings.Builder
	for _, p := range m.parts {
		o := m.offersLocked(p)
		all = append(all, o)
		if text := strings.TrimSpace(o.instructions); text != "" && instructions.Len()+len(text) <= maxAllInstructions {
			instructions.WriteString("## " + p.upstream.Name + "\n\n" + text + "\n\n")
		}
	}
	body := mcp.AppendQuoted([]byte(`{"protocolVersion":`), versionFor(&m.client))
	body = union(append(body, `,"capabilities":`...), all)
	body = mcp.AppendQuoted(append(body, `,"serverInfo":{"name":`...), m.gateway)
	body = append(mcp.AppendQuoted(append(body, `,"version":`...), m.up.cfg.Version), '}')
	if text := strings.TrimSpace(instructions.String()); text != "" {
		body = mcp.AppendQuoted(append(body, `,"instructions":`...), text)
	}
	return append(body, '}')
}

var mayHaveLists = &offers{lists: [catalogue.Kinds]bool{true, true, true, true}, capabilities: []byte("{}")}

func (m *merged) offersLocked(p *part) *offers {
	if p.now != nil {
		return p.now.offers
	}
	if k := m.up.known.look(p.upstream); k != nil && !k.offers.unknown {
		return k.offers
	}
	return mayHaveLists
}

// union appends the capabilities of all together. Lists can always change, as parts
// come and go. What is not known here is taken from the first part that has it.
func union(dst []byte, all []*offers) []byte {
	dst = append(dst, '{')
	var has [catalogue.Kinds]bool
	subscribe := false
	for _, o := range all {
		for k := range has {
			has[k] = has[k] || o.lists[k]
		}
		subscribe = subscribe || o.subscribe
	}
	add := func(name, value string) {
		if dst[len(dst)-1] != '{' {
			dst = append(dst, ',')
		}
		dst = append(mcp.AppendQuoted(dst, name), ':')
		dst = append(dst, value...)
	}
	const changes = `{"listChanged":true}`
	if has[catalogue.Tools] {
		add("tools", changes)
	}
	if has[catalogue.Prompts] {
		add("prompts", changes)
	}
	switch {
	case has[catalogue.Resources] && subscribe:
		add("resources", `{"subscribe":true,"listChanged":true}`)
	case has[catalogue.Resources]:
		add("resources", changes)
	}
	rest := newMembers("tools", "prompts", "resources")
	for _, o := range all {
		rest.add(o.capabilities, mergedCapabilities)
	}
	for _, name := range rest.names {
		add(name, string(rest.values[name].append(nil)))
	}
	return append(dst, '}')
}

// mergedCapabilities are those whose members are merged too, at any depth.
var mergedCapabilities = map[string]bool{"experimental": true, "extensions": true, "tasks": true, "requests": true}

// members is an object that is made of several: the first one that has a member counts.
type members struct {
	names  []string
	values map[string]*member
	not    []string
}

// member is a value, or an object that is merged itself.
type member struct {
	raw []byte
	of  *members
}

// maxMembers bounds the members of a merged object.
const maxMembers = 128

func newMembers(not ...string) *members { return &members{values: make(map[string]*member), not: not} }

// add adds the members of an object.
func (ms *members) add(object []byte, deep map[string]bool) {
	for name, value := range mcp.Members(object) {
		switch old := ms.values[name]; {
		case slices.Contains(ms.not, name), old == nil && len(ms.names) >= maxMembers:
		case old == nil:
			next := &member{raw: value}
			if deep[name] && value[0] == '{' {
				next = &member{of: newMembers()}
				next.of.add(value, deep)
			}
			ms.names = append(ms.names, name)
			ms.values[name] = next
		case old.of != nil && value[0] == '{':
			old.of.add(value, deep)
		}
	}
}

func (m *member) append(dst []byte) []byte {
	if m.of == nil {
		return append(dst, m.raw...)
	}
	dst = append(dst, '{')
	for i, name := range m.of.names {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = m.of.values[name].append(append(mcp.AppendQuoted(dst, name), ':'))
	}
	return append(dst, '}')
}
