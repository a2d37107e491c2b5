package mcp

import (
	"iter"
	"math/bits"
)

// Each is the step of a path that leads to every element of an array.
const Each = "[]"

// MaxPaths is how many paths Splice takes.
const MaxPaths = 64

// Splice appends raw to dst, with other values at the paths. A path is a list of
// steps, each the name of an object's member or [Each]. For each value that is at a
// path, in their order in raw, edit is called with the path's place in paths and the
// value, which aliases raw; what it returns takes the value's place, and nil leaves
// it as it is. Every other byte stays what it is. A path that leads nowhere in raw
// changes nothing. Of two paths of which one begins with the other the shorter one
// counts, of equal ones the first.
//
// Splice tells false if raw is not JSON, or if an object on a path has the member
// twice or mis-cased, as [Lookup] does; dst is then returned as it was, though edit
// may have been called. It reads raw once, and panics if there are more than MaxPaths.
func Splice(dst, raw []byte, paths [][]string, edit func(path int, value []byte) []byte) ([]byte, bool) {
	s := splicer{scanner: scanner{b: raw, max: MaxDepth}, paths: paths, edit: edit, dst: dst}
	all := uint64(1)<<len(paths) - 1
	if len(paths) > MaxPaths {
		panic("mcp: too many paths")
	}
	i := s.walk(s.space(0), 0, 0, all)
	if i < 0 || !s.end(i) {
		return dst, false
	}
	return append(s.dst, raw[s.done:]...), true
}

// splicer is a scanner that copies what it reads. Sets of paths are bits.
type splicer struct {
	scanner
	paths [][]string
	edit  func(int, []byte) []byte
	dst   []byte
	done  int // what of the text is in dst already
}

// walk reads the value at i, inside of depth arrays and objects, to which the first
// steps of the paths in on lead, as many as level says.
func (s *splicer) walk(i, depth, level int, on uint64) int {
	if on == 0 {
		return s.value(i, depth)
	}
	for left := on; left != 0; left &= left - 1 {
		if path := bits.TrailingZeros64(left); len(s.paths[path]) == level {
			return s.replace(i, depth, path)
		}
	}
	switch s.at(i) {
	case '{':
		return s.members(i, depth, level, on)
	case '[':
		return s.elements(i, depth, level, on)
	}
	return s.value(i, depth)
}

// replace reads the value at i, which is at the end of a path.
func (s *splicer) replace(i, depth, path int) int {
	end := s.value(i, depth)
	if end < 0 {
		return failed
	}
	if value := s.edit(path, s.b[i:end:end]); value != nil {
		s.dst = append(append(s.dst, s.b[s.done:i]...), value...)
		s.done = end
	}
	return end
}

// members reads the object at i.
func (s *splicer) members(i, depth, level int, on uint64) int {
	var seen uint64
	i, more := s.open(i, &depth, '}')
	for more {
		var k span
		if i, k = s.key(i); i < 0 {
			return failed
		}
		var to uint64
		for left := on; left != 0; left &= left - 1 {
			path := bits.TrailingZeros64(left)
			switch like := s.step(path, level, k); {
			case like == misspelt, like == same && seen&(1<<path) != 0:
				return failed
			case like == same:
				to |= 1 << path
			}
		}
		seen |= to
		if i = s.walk(i, depth, level+1, to); i < 0 {
			return failed
		}
		i, more = s.next(i, '}')
	}
	return i
}

// step compares a key to a step of a path.
func (s *splicer) step(path, level int, k span) likeness {
	name := s.paths[path][level]
	if name == Each {
		return different
	}
	return compare(s.b[k.from:k.to], name)
}

// elements reads the array at i.
func (s *splicer) elements(i, depth, level int, on uint64) int {
	var to uint64
	for left := on; left != 0; left &= left - 1 {
		if path := bits.TrailingZeros64(left); s.paths[path][level] == Each {
			to |= 1 << path
		}
	}
	i, more := s.open(i, &depth, ']')
	for more {
		if i = s.walk(i, depth, level+1, to); i < 0 {
			return failed
		}
		i, more = s.next(i, ']')
	}
	return i
}

// Elements are the elements of raw, which must be a valid JSON array; there are none
// in anything else. They alias raw.
func Elements(raw []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		s := scanner{b: raw, max: MaxDepth}
		i, depth := s.space(0), 0
		if s.at(i) != '[' {
			return
		}
		i, more := s.open(i, &depth, ']')
		for more {
			from := i
			if i = s.value(i, depth); i < 0 || !yield(raw[from:i:i]) {
				return
			}
			i, more = s.next(i, ']')
		}
	}
}
