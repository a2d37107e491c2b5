package catalogue

import "github.com/leasehold/leasehold/dataplane/mcp"

// appendTo appends the item as clients see it; an empty description is no other one.
func (p *pick) appendTo(dst []byte, description string) []byte {
	it, raw := p.list.at(p.item)
	if description == "" {
		dst = append(dst, raw[:it.key.from]...)
		return append(p.appendKey(dst, it, raw), raw[it.key.to:]...)
	}
	dst, _ = mcp.Splice(dst, raw, p.list.kind.paths(), func(path int, _ []byte) []byte { // which took raw in Parse
		if path == pathKey {
			return p.appendKey(nil, it, raw)
		}
		return mcp.AppendQuoted(nil, description)
	})
	if it.described {
		return dst
	}
	dst = append(dst[:len(dst)-len("}")], `,"description":`...)
	return append(mcp.AppendQuoted(dst, description), '}')
}

// appendKey appends what identifies the item. A prefix goes into the string as it
// came, whose escapes stay what they are.
func (p *pick) appendKey(dst []byte, it *item, raw []byte) []byte {
	token := raw[it.key.from:it.key.to]
	switch {
	case p.prefix != "":
		dst = append(append(dst, '"'), p.prefix...) // which has nothing to escape
		return append(dst, token[1:]...)
	case p.name != it.name:
		return mcp.AppendQuoted(dst, p.name)
	}
	return append(dst, token...)
}
