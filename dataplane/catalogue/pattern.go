package catalogue

import "strings"

// patterns is a set of patterns in which * stands for any number of any characters.
type patterns struct {
	exact map[string]bool
	wild  [][]string // what is between the stars
}

func newPatterns(texts []string) patterns {
	p := patterns{exact: make(map[string]bool)}
	for _, text := range texts {
		if parts := strings.Split(text, "*"); len(parts) > 1 {
			p.wild = append(p.wild, parts)
			continue
		}
		p.exact[text] = true
	}
	return p
}

// add adds a name that has no meaning as a pattern.
func (p *patterns) add(name string) { p.exact[name] = true }

func (p *patterns) empty() bool { return len(p.exact) == 0 && len(p.wild) == 0 }

func (p *patterns) match(name string) bool {
	if p.exact[name] {
		return true
	}
	for _, parts := range p.wild {
		if matchParts(parts, name) {
			return true
		}
	}
	return false
}

// matchParts reports whether name consists of parts, at least two, in this order and
// of anything between them. It takes the first place of each part, and the last one
// at the end, so that it never has to go back.
func matchParts(parts []string, name string) bool {
	last := len(parts) - 1
	name, ok := strings.CutPrefix(name, parts[0])
	if !ok {
		return false
	}
	for _, part := range parts[1:last] {
		if _, name, ok = strings.Cut(name, part); !ok {
			return false
		}
	}
	return strings.HasSuffix(name, parts[last])
}
