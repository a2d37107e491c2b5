package mcp

import "iter"

// Members are the members of raw, which must be a valid JSON object; there are none in
// anything else. A name that no UTF-8 can carry is left out. The values alias raw.
func Members(raw []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		s := scanner{b: raw, max: MaxDepth}
		i, depth := s.space(0), 0
		if s.at(i) != '{' {
			return
		}
		i, more := s.open(i, &depth, '}')
		for more {
			var k span
			if i, k = s.key(i); i < 0 {
				return
			}
			from := i
			if i = s.value(i, depth); i < 0 {
				return
			}
			if name, ok := unquote(raw[k.from:k.to]); ok && !yield(string(name), raw[from:i:i]) {
				return
			}
			i, more = s.next(i, '}')
		}
	}
}
