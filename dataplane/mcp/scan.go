package mcp

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"unicode/utf8"
)

// scanner checks JSON text (RFC 8259) as it walks over it. Its methods take the
// offset of what they are to read and return the offset behind it, or failed
// after they have set err. They read each byte once, but for strings that are
// not ASCII, and allocate only to describe an error.
type scanner struct {
	b   []byte
	max int    // how deep arrays and objects may nest
	err *Error // why reading stopped
	bad *Error // what is wrong with a message, its being JSON apart
}

// failed is the offset that stands for "there is an error in scanner.err".
const failed = -1

// at returns the byte at i, or 0 at the end: no token begins or ends with 0.
func (s *scanner) at(i int) byte {
	if uint(i) < uint(len(s.b)) {
		return s.b[i]
	}
	return 0
}

// space returns the offset of the first byte from i on that is not white space.
func (s *scanner) space(i int) int {
	if uint(i) < uint(len(s.b)) && s.b[i] > ' ' {
		return i
	}
	return s.spaces(i)
}

func (s *scanner) spaces(i int) int {
	for {
		switch s.at(i) {
		case ' ', '\t', '\n', '\r':
			i++
		default:
			return i
		}
	}
}

// value reads the value that begins at i, inside of depth arrays and objects.
func (s *scanner) value(i, depth int) int {
	switch s.at(i) {
	case '"':
		return s.str(i)
	case '{':
		return s.object(i, depth)
	case '[':
		return s.array(i, depth)
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		return s.number(i)
	case 't':
		return s.literal(i, "true")
	case 'f':
		return s.literal(i, "false")
	case 'n':
		return s.literal(i, "null")
	}
	return s.unexpected(i, "a value")
}

// object reads the object that begins at i.
func (s *scanner) object(i, depth int) int {
	i, more := s.open(i, &depth, '}')
	for more {
		if i, _ = s.key(i); i < 0 {
			return failed
		}
		if i = s.value(i, depth); i < 0 {
			return failed
		}
		i, more = s.next(i, '}')
	}
	return i
}

// array reads the array that begins at i.
func (s *scanner) array(i, depth int) int {
	i, more := s.open(i, &depth, ']')
	for more {
		if i = s.value(i, depth); i < 0 {
			return failed
		}
		i, more = s.next(i, ']')
	}
	return i
}

// open steps into the array or object at i, which ends with last, and counts
// its level. It returns the offset of the first item, or there is none: then
// the offset is the one behind the array or object, or failed.
func (s *scanner) open(i int, depth *int, last byte) (int, bool) {
	*depth++
	if *depth > s.max {
		return s.tooDeep(i, *depth), false
	}
	i = s.space(i + 1)
	if s.at(i) == last {
		return i + 1, false
	}
	return i, true
}

// next goes on behind an item that ends at i, with the same results as open.
func (s *scanner) next(i int, last byte) (int, bool) {
	i = s.space(i)
	switch s.at(i) {
	case ',':
		return s.space(i + 1), true
	case last:
		return i + 1, false
	}
	return s.unexpected(i, "',' or '"+string(rune(last))+"'"), false
}

// span is a part of the text.
type span struct{ from, to int }

// key reads a member's key at i and the colon. It returns the offset of the
// member's value and where the key is, quotes included.
func (s *scanner) key(i int) (int, span) {
	if s.at(i) != '"' {
		return s.unexpected(i, "a key"), span{}
	}
	end := s.str(i)
	if end < 0 {
		return failed, span{}
	}
	k := span{i, end}
	i = s.space(end)
	if s.at(i) != ':' {
		return s.unexpected(i, "':'"), span{}
	}
	return s.space(i + 1), k
}

// Eight bytes at a time: the high bit of a byte is set where the byte is one
// that ends a run. Borrows can set bits above such a byte, never below it, so
// the lowest one is right.
const (
	ones    = 0x0101010101010101
	highs   = 0x8080808080808080
	control = 0x20 * ones
	quotes  = '"' * ones
	slashes = '\\' * ones
)

// str reads the string whose opening quote is at i.
func (s *scanner) str(i int) int {
	b := s.b
	i++
	from := i
	for i+8 <= len(b) {
		x := binary.LittleEndian.Uint64(b[i:])
		// Bytes beyond ASCII count as well: they are for strSlow.
		m := ((x - control) | ((x ^ quotes) - ones) | ((x ^ slashes) - ones)) & highs
		if m == 0 {
			i += 8
			continue
		}
		i += bits.TrailingZeros64(m) >> 3
		if b[i] == '"' {
			return i + 1
		}
		break
	}
	return s.strSlow(from, i)
}

// strSlow reads on at i in a string whose first byte is at from: it copes with
// escapes, bytes beyond ASCII, and the last bytes of the text.
func (s *scanner) strSlow(from, i int) int {
	b := s.b
	var seen uint64 // all bytes or-ed: tells whether one was beyond ASCII
	for {
		for i+8 <= len(b) {
			x := binary.LittleEndian.Uint64(b[i:])
			m := ((x - control) | ((x ^ quotes) - ones) | ((x ^ slashes) - ones)) &^ x & highs
			if m != 0 {
				n := bits.TrailingZeros64(m) &^ 7
				seen |= x & (1<<n - 1)
				i += n >> 3
				break
			}
			seen |= x
			i += 8
		}
		if i >= len(b) {
			return s.unexpected(i, "the end of a string")
		}
		switch c := b[i]; {
		case c == '"':
			if seen&highs != 0 && !utf8.Valid(b[from:i]) {
				return s.badUTF8(from, i)
			}
			return i + 1
		case c == '\\':
			if i = s.escape(i); i < 0 {
				return failed
			}
		case c < ' ':
			return s.unexpected(i, "an escaped control character")
		default: // only in the last bytes of the text
			seen |= uint64(c)
			i++
		}
	}
}

// escape reads the escape sequence at i.
func (s *scanner) escape(i int) int {
	switch s.at(i + 1) {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2
	case 'u':
		for j := i + 2; j < i+6; j++ {
			if !isHex(s.at(j)) {
				return s.unexpected(j, "a hexadecimal digit")
			}
		}
		return i + 6
	}
	return s.unexpected(i+1, "an escape character")
}

// number reads the number at i.
func (s *scanner) number(i int) int {
	if s.at(i) == '-' {
		i++
	}
	switch c := s.at(i); {
	case c == '0':
		i++
	case isDigit(c):
		i = s.digits(i)
	default:
		return s.unexpected(i, "a digit")
	}
	if s.at(i) == '.' {
		if i = s.someDigits(i + 1); i < 0 {
			return failed
		}
	}
	if c := s.at(i); c == 'e' || c == 'E' {
		i++
		if c := s.at(i); c == '+' || c == '-' {
			i++
		}
		return s.someDigits(i)
	}
	return i
}

func (s *scanner) digits(i int) int {
	for isDigit(s.at(i)) {
		i++
	}
	return i
}

func (s *scanner) someDigits(i int) int {
	if !isDigit(s.at(i)) {
		return s.unexpected(i, "a digit")
	}
	return s.digits(i)
}

func (s *scanner) literal(i int, word string) int {
	for j := range len(word) {
		if s.at(i+j) != word[j] {
			return s.unexpected(i+j, word)
		}
	}
	return i + len(word)
}

// end checks that nothing but white space follows from i on.
func (s *scanner) end(i int) bool {
	i = s.space(i)
	if i == len(s.b) {
		return true
	}
	s.unexpected(i, "the end")
	return false
}

// unexpected fails: the text is not JSON because it lacks want at i.
func (s *scanner) unexpected(i int, want string) int {
	found := "the body ends"
	if i < len(s.b) {
		found = fmt.Sprintf("found byte %#02x", s.b[i])
	}
	return s.fail(&Error{Code: CodeParse, Message: fmt.Sprintf("invalid JSON at byte %d: %s where %s is due", i, found, want)})
}

// badUTF8 fails: the string in [from,to) is not UTF-8.
func (s *scanner) badUTF8(from, to int) int {
	i := from
	for i < to {
		r, n := utf8.DecodeRune(s.b[i:to])
		if r == utf8.RuneError && n == 1 {
			break
		}
		i += n
	}
	return s.fail(&Error{Code: CodeParse, Message: fmt.Sprintf("invalid JSON at byte %d: not UTF-8", i)})
}

// tooDeep fails: the array or object at i is nested too deep.
func (s *scanner) tooDeep(i, depth int) int {
	return s.fail(&Error{Code: CodeInvalidRequest, Message: fmt.Sprintf("nested %d levels deep at byte %d: at most %d are allowed", depth, i, s.max)})
}

func (s *scanner) fail(e *Error) int {
	if s.err == nil {
		s.err = e
	}
	return failed
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isHex(c byte) bool {
	return isDigit(c) || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}
