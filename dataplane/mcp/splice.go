package mcp

import (
	"iter"
	"math/bits"
)

// Each is the step of a path that leads to every element of an array.
const Each = "[]"

// MaxPaths is how many paths Splice takes.
const MaxPaths = 64

// Splice appends raw to dst, with other values at the paths, which lead where [Find]
// says. For each value, in their order in raw, edit is called with the path's place in
// paths and the value, which aliases raw; what it returns takes the value's place, and
// nil leaves it as it is. Every other byte stays what it is.
//
// Splice tells false where Find does; dst is then returned as it was, though edit may
// have been called. raw and dst must not overlap.
func Splice(dst, raw []byte, paths [][]string, edit func(path int, value []byte) []byte) ([]byte, bool) {
	out, done := dst, 0
	ok := Find(raw, paths, func(path, from, to int) {
		if value := edit(path, raw[from:to:to]); value != nil {
			out = append(append(out, raw[done:from]...), value...)
			done = to
		}
	})
	if !ok {
		return dst, false
	}
	return append(out, raw[done:]...), true
}

// Find tells where in raw the values at the paths are. A path is a list of steps, each
// the name of an object's member, in ASCII, or [Each]. For each value, in their order
// in raw, found is called with the path's place in paths and the value's extent. A
// path that leads nowhere in raw finds nothing. Of two paths of which one begins with
// the other the shorter one counts, of equal ones the first.
//
// Find tells false if raw is not JSON, or if an object on a path has the member twice
// or mis-cased, as [Lookup] does, though found may have been called. It reads raw
// once, and panics if there are more than MaxPaths.
func Find(raw []byte, paths [][]string, found func(path, from, to int)) bool {
	if len(paths) > MaxPaths {
		panic("mcp: too many paths")
	}
	f := finder{scanner: scanner{b: raw, max: MaxDepth}, paths: paths, found: found}
	i := f.walk(f.space(0), 0, 0, uint64(1)<<len(paths)-1)
	return i >= 0 && f.end(i)
}

// finder is a scanner that looks for paths. Sets of them are bits.
type finder struct {
	scanner
	paths [][]string
	found func(path, from, to int)
}

// walk reads the value at i, inside of depth arrays and objects, to which the first
// steps of the paths in on lead, as many as level says.
func (f *finder) walk(i, depth, level int, on uint64) int {
	if on == 0 {
		return f.value(i, depth)
	}
	for left := on; left != 0; left &= left - 1 {
		if path := bits.TrailingZeros64(left); len(f.paths[path]) == level {
			return f.tell(i, depth, path)
		}
	}
	switch f.at(i) {
	case '{':
		return f.members(i, depth, level, on)
	case '[':
		return f.elements(i, depth, level, on)
	}
	return f.value(i, depth)
}

// tell reads the value at i, which is at the end of a path.
func (f *finder) tell(i, depth, path int) int {
	end := f.value(i, depth)
	if end >= 0 {
		f.found(path, i, end)
	}
	return end
}

// members reads the object at i.
func (f *finder) members(i, depth, level int, on uint64) int {
	var seen uint64
	i, more := f.open(i, &depth, '}')
	for more {
		var k span
		if i, k = f.key(i); i < 0 {
			return failed
		}
		var to uint64
		for left := on; left != 0; left &= left - 1 {
			path := bits.TrailingZeros64(left)
			switch like := f.step(path, level, k); {
			case like == misspelt, like == same && seen&(1<<path) != 0:
				return failed
			case like == same:
				to |= 1 << path
			}
		}
		seen |= to
		if i = f.walk(i, depth, level+1, to); i < 0 {
			return failed
		}
		i, more = f.next(i, '}')
	}
	return i
}

// step compares a key to a step of a path.
func (f *finder) step(path, level int, k span) likeness {
	name := f.paths[path][level]
	if name == Each {
		return different
	}
	return compare(f.b[k.from:k.to], name)
}

// elements reads the array at i.
func (f *finder) elements(i, depth, level int, on uint64) int {
	var to uint64
	for left := on; left != 0; left &= left - 1 {
		if path := bits.TrailingZeros64(left); f.paths[path][level] == Each {
			to |= 1 << path
		}
	}
	i, more := f.open(i, &depth, ']')
	for more {
		if i = f.walk(i, depth, level+1, to); i < 0 {
			return failed
		}
		i, more = f.next(i, ']')
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
