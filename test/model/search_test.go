package model

import (
	"fmt"
	"hash/maphash"
	"strings"
)

// visited is a set of states, of which it keeps 64 bits each.
type visited struct {
	seed  maphash.Seed
	table []uint64 // 0 is free; at most half full
	n     int
}

func newVisited() *visited {
	return &visited{seed: maphash.MakeSeed(), table: make([]uint64, 1<<12)}
}

// add reports whether s was not in the set.
func (v *visited) add(s *state) bool {
	if 2*v.n >= len(v.table) {
		v.grow()
	}
	return v.put(maphash.Comparable(v.seed, *s) | 1)
}

func (v *visited) put(h uint64) bool {
	for i := int(h>>1) & (len(v.table) - 1); ; i = (i + 1) & (len(v.table) - 1) {
		switch v.table[i] {
		case h:
			return false
		case 0:
			v.table[i] = h
			v.n++
			return true
		}
	}
}

func (v *visited) grow() {
	old := v.table
	v.table, v.n = make([]uint64, 2*len(old)), 0
	for _, h := range old {
		if h != 0 {
			v.put(h)
		}
	}
}

// result is what a search found.
type result struct {
	states   int
	depth    int
	complete bool // there are no other states
	violated property
	first    []event // what happened before the search
	trace    []event // to the nearest state that violates it
	last     state
}

// origin is how a state was reached first: by which step from which state.
type origin struct {
	from int32
	step uint16
}

// search looks at states, nearest first.
type search struct {
	*machine
	start   state
	seen    *visited
	origins []origin
	each    func(*state) property // asked about each state
}

// explore looks at every state that can be reached from start, nearest first, until
// it finds one that violates something or has seen as many as bound.
func (m *machine) explore(start state, bound int, each func(*state) property) result {
	m.settle(&start)
	s := &search{m, start, newVisited(), []origin{{from: -1}}, each}
	s.seen.add(&start)
	level, first := []state{start}, 0 // and the number of its first state
	for depth := 0; ; depth++ {
		var next []state
		for i := range level {
			var violated property
			if next, violated = s.expand(&level[i], first+i, next); violated != fine {
				trace, last := s.replay()
				return result{states: len(s.origins), depth: depth + 1, violated: violated, first: m.first, trace: trace, last: last}
			}
			if len(s.origins) > bound {
				return result{states: len(s.origins), depth: depth}
			}
		}
		if len(next) == 0 {
			return result{states: len(s.origins), depth: depth, complete: true}
		}
		level, first = next, first+len(level)
	}
}

// expand appends the states that are one step from s, the number-th, and new.
func (s *search) expand(from *state, number int, next []state) ([]state, property) {
	for k, st := range s.next(from) {
		if !s.seen.add(&st.to) {
			continue
		}
		s.origins = append(s.origins, origin{int32(number), uint16(k)})
		violated := st.to.violated
		if violated == fine && s.each != nil {
			violated = s.each(&st.to)
		}
		if violated != fine {
			return next, violated
		}
		next = append(next, st.to)
	}
	return next, fine
}

// replay returns what led to the newest state, and that state.
func (s *search) replay() ([]event, state) {
	var steps []uint16
	for o := s.origins[len(s.origins)-1]; o.from >= 0; o = s.origins[o.from] {
		steps = append(steps, o.step)
	}
	var trace []event
	at := s.start
	for i := len(steps) - 1; i >= 0; i-- {
		st := s.next(&at)[steps[i]]
		trace = append(trace, st.event)
		at = st.to
	}
	return trace, at
}

func (r result) String() string {
	switch {
	case r.violated != fine:
		return fmt.Sprintf("%v, after %d states%s", r.violated, r.states, story(r.first, r.trace, &r.last))
	case r.complete:
		return fmt.Sprintf("all %d states are well, the farthest of them %d steps away", r.states, r.depth)
	}
	return fmt.Sprintf("%d states are well, all within %d steps among them", r.states, r.depth)
}

// story tells what happened.
func story(first, trace []event, last *state) string {
	var b strings.Builder
	for _, e := range first {
		fmt.Fprintf(&b, "\n      %v", e)
	}
	for i, e := range trace {
		fmt.Fprintf(&b, "\n%4d  %v", i+1, e)
	}
	fmt.Fprintf(&b, "\n      then: %v", last)
	return b.String()
}
