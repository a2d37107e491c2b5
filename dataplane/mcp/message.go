package mcp

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// batch reads the array of messages at i.
func (s *scanner) batch(env *Envelope, i, limit int) int {
	depth, start := 0, i
	i, more := s.open(i, &depth, ']')
	for more {
		if len(env.many) == limit {
			return s.fail(&Error{Code: CodeInvalidRequest, Message: fmt.Sprintf("batch goes on at byte %d after %d messages: at most %d are allowed", i, limit, limit)})
		}
		env.many = append(env.many, Message{})
		m, from := &env.many[len(env.many)-1], i
		if i = s.message(m, i, depth); i < 0 {
			return failed
		}
		if m.Method == MethodInitialize && s.bad == nil {
			s.invalid(from, "initialize inside a batch")
			s.bad.ID = m.ID
		}
		i, more = s.next(i, ']')
	}
	if len(env.many) == 0 && i >= 0 {
		s.invalid(start, "the batch is empty")
	}
	return i
}

// invalid records that a message is JSON but not acceptable for what it has at
// i. Reading goes on: the body may yet turn out not to be JSON, and the id may
// follow. The first complaint counts.
func (s *scanner) invalid(i int, what string) {
	if s.bad == nil {
		s.bad = &Error{Code: CodeInvalidRequest, Message: fmt.Sprintf("invalid message at byte %d: %s", i, what)}
	}
}

// message reads the message at i into m, inside of depth arrays, and sees to it
// that an error about it carries its id.
func (s *scanner) message(m *Message, i, depth int) int {
	if s.at(i) != '{' {
		s.invalid(i, "not an object")
		return s.value(i, depth)
	}
	fine := s.bad == nil
	var p members
	end := s.members(&p, i, depth)
	if end >= 0 {
		s.classify(&p, i)
	}
	*m = p.Message
	if p.seen&unclearID != 0 {
		return end
	}
	if fine && s.bad != nil {
		s.bad.ID = m.ID
	}
	if s.err != nil && s.err.Code != CodeParse {
		s.err.ID = m.ID
	}
	return end
}

// member is a set of the envelope's members.
type member uint8

const (
	memberVersion member = 1 << iota
	memberID
	memberMethod
	memberParams
	memberResult
	memberError
	nullID    // the id is null
	unclearID // the id is there twice, or mis-cased
)

// members is what reading a message's members has found so far.
type members struct {
	Message
	seen      member
	name, uri []byte // of params
}

// members reads the members of the message at i.
func (s *scanner) members(p *members, i, depth int) int {
	i, more := s.open(i, &depth, '}')
	for more {
		var k span
		if i, k = s.key(i); i < 0 {
			return failed
		}
		key := s.member(p, k)
		from := i
		if key == memberParams {
			i = s.params(p, i, depth)
		} else {
			i = s.value(i, depth)
		}
		if i < 0 {
			return failed
		}
		s.keep(p, key, from, s.b[from:i])
		i, more = s.next(i, '}')
	}
	return i
}

// member tells which member the key k is, 0 if it is none of ours, or one that
// must not be there.
func (s *scanner) member(p *members, k span) member {
	key, fits := s.envelopeKey(k)
	switch {
	case !fits:
		s.invalid(k.from, "key "+quote(s.b[k.from:k.to])+" differs from a key of JSON-RPC only in case or behind a NUL")
	case p.seen&key != 0:
		s.invalid(k.from, "duplicate key "+quote(s.b[k.from:k.to]))
	default:
		p.seen |= key
		return key
	}
	if key == memberID {
		p.seen |= unclearID
	}
	return 0
}

// envelopeKey tells which member the key k is or, if it does not fit, resembles.
func (s *scanner) envelopeKey(k span) (key member, fits bool) {
	token := s.b[k.from:k.to]
	switch string(token) {
	case `"jsonrpc"`:
		return memberVersion, true
	case `"id"`:
		return memberID, true
	case `"method"`:
		return memberMethod, true
	case `"params"`:
		return memberParams, true
	case `"result"`:
		return memberResult, true
	case `"error"`:
		return memberError, true
	}
	for i, name := range [...]string{"jsonrpc", "id", "method", "params", "result", "error"} {
		if like := compare(token, name); like != different {
			return 1 << i, like == same
		}
	}
	return 0, true
}

// keep takes the value of a member, which begins at from.
func (s *scanner) keep(p *members, key member, from int, value []byte) {
	first := value[0]
	switch key {
	case memberVersion:
		if string(value) != `"2.0"` {
			s.invalid(from, `jsonrpc is not "2.0"`)
		}
	case memberID:
		switch {
		case first == '"' || first == '-' || isDigit(first):
			p.ID = value
		case first == 'n':
			p.seen |= nullID
		default:
			s.invalid(from, "id is neither a string nor a number")
		}
	case memberMethod:
		method, ok := unquote(value)
		if !ok || len(method) == 0 {
			s.invalid(from, "method is not a string of at least one character")
			return
		}
		p.Method = internMethod(method)
	case memberParams:
		if first != '{' {
			s.invalid(from, "params is not an object")
		}
		p.Params = value
	case memberResult:
		p.Result = value
	case memberError:
		if first != '{' {
			s.invalid(from, "error is not an object")
		}
		p.Error = value
	}
}

// classify decides what the message that begins at from is.
func (s *scanner) classify(p *members, from int) {
	has := p.seen
	if has&memberVersion == 0 {
		s.invalid(from, "jsonrpc is missing")
	}
	switch answer := has & (memberResult | memberError); {
	case has&memberMethod != 0:
		if answer != 0 {
			s.invalid(from, "method beside a result or an error")
		}
		if has&nullID != 0 {
			s.invalid(from, "id is null")
		}
		p.Kind = KindNotification
		if has&memberID != 0 {
			p.Kind = KindRequest
		}
	case answer == 0:
		s.invalid(from, "neither a method nor a result nor an error")
	default:
		p.Kind = KindResponse
		if answer == memberResult|memberError {
			s.invalid(from, "both a result and an error")
		}
		if has&memberID == 0 || has&nullID != 0 && answer != memberError {
			s.invalid(from, "response without an id")
		}
		if has&memberParams != 0 {
			s.invalid(from, "params in a response")
		}
	}
	p.Name = p.name
	if strings.HasPrefix(p.Method, methodResourcesPrefix) {
		p.Name = p.uri
	}
}

// params reads the value of params at i and finds what is of interest in it.
func (s *scanner) params(p *members, i, depth int) int {
	if s.at(i) != '{' {
		return s.value(i, depth)
	}
	var meta bool
	i, more := s.open(i, &depth, '}')
	for more {
		var k span
		if i, k = s.key(i); i < 0 {
			return failed
		}
		from, key := i, s.paramsKey(k)
		if key == "_meta" {
			i = s.meta(&p.Message, i, depth)
		} else {
			i = s.value(i, depth)
		}
		if i < 0 {
			return failed
		}
		var again bool
		switch key {
		case "_meta":
			meta, again = true, meta
		case "name":
			p.name, again = s.b[from:i], p.name != nil
		case "uri":
			p.uri, again = s.b[from:i], p.uri != nil
		}
		if again {
			s.invalid(k.from, "duplicate key "+quote(s.b[k.from:k.to])+" in params")
		}
		i, more = s.next(i, '}')
	}
	return i
}

// paramsKey returns the name of the key k of params if it is one that we read.
func (s *scanner) paramsKey(k span) string {
	token := s.b[k.from:k.to]
	switch string(token) {
	case `"_meta"`:
		return "_meta"
	case `"name"`:
		return "name"
	case `"uri"`:
		return "uri"
	case `"arguments"`:
		return ""
	}
	for _, name := range [...]string{"_meta", "name", "uri"} {
		switch compare(token, name) {
		case same:
			return name
		case misspelt:
			s.invalid(k.from, "key "+quote(token)+" in params differs from "+name+" only in case or behind a NUL")
		}
	}
	return ""
}

// meta reads the value of params._meta at i.
func (s *scanner) meta(m *Message, i, depth int) int {
	if s.at(i) != '{' {
		return s.value(i, depth)
	}
	i, more := s.open(i, &depth, '}')
	for more {
		var k span
		if i, k = s.key(i); i < 0 {
			return failed
		}
		from := i
		if i = s.value(i, depth); i < 0 {
			return failed
		}
		switch compare(s.b[k.from:k.to], MetaProtocolVersion) {
		case same:
			if m.HasModernMeta {
				s.invalid(k.from, "duplicate key "+quote(s.b[k.from:k.to])+" in params._meta")
			}
			m.HasModernMeta = true
			if v, ok := unquote(s.b[from:i]); ok {
				m.ProtocolVersion = internVersion(v)
			}
		case misspelt:
			s.invalid(k.from, "key "+quote(s.b[k.from:k.to])+" in params._meta differs from "+MetaProtocolVersion+" only in case or behind a NUL")
		}
		i, more = s.next(i, '}')
	}
	return i
}

// likeness is how a key compares to a name.
type likeness uint8

const (
	different likeness = iota
	same
	misspelt // a lenient parser may take it for the name
)

// compare compares a key, a valid string token, to name.
func compare(token []byte, name string) likeness {
	key := token[1 : len(token)-1]
	if len(key) == len(name) && string(key) == name {
		return same
	}
	like := same
	for i := range len(name) {
		if len(key) == 0 {
			return different
		}
		r, n := char(key)
		if want := rune(name[i]); r != want {
			if fold(r) != fold(want) {
				return different
			}
			like = misspelt
		}
		key = key[n:]
	}
	if len(key) == 0 {
		return like
	}
	if r, _ := char(key); r == 0 {
		return misspelt
	}
	return different
}

// fold maps a letter to the lower-case ASCII letter that a parser which ignores
// case may take it for.
func fold(r rune) rune {
	switch {
	case 'A' <= r && r <= 'Z':
		return r + 'a' - 'A'
	case r == 'ſ':
		return 's'
	case r == '\u212a': // the Kelvin sign
		return 'k'
	case r == 'İ' || r == 'ı':
		return 'i'
	}
	return r
}

// char decodes the first character of the inside of a valid string token, and
// tells how many bytes it takes. Half a surrogate pair is utf8.RuneError, of
// the length of its escape.
func char(b []byte) (rune, int) {
	switch c := b[0]; {
	case c >= utf8.RuneSelf:
		return utf8.DecodeRune(b)
	case c != '\\':
		return rune(c), 1
	}
	switch b[1] {
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
		r := hex4(b[2:])
		if !utf16.IsSurrogate(r) {
			return r, 6
		}
		if len(b) >= 12 && b[6] == '\\' && b[7] == 'u' {
			if r := utf16.DecodeRune(r, hex4(b[8:])); r != utf8.RuneError {
				return r, 12
			}
		}
		return utf8.RuneError, 6
	}
	return rune(b[1]), 2
}

// hex4 decodes four hexadecimal digits.
func hex4(b []byte) rune {
	var r rune
	for _, c := range b[:4] {
		switch {
		case isDigit(c):
			r = r<<4 | rune(c-'0')
		default:
			r = r<<4 | rune(c|0x20-'a'+10)
		}
	}
	return r
}

// unquote returns the text of token, a valid JSON value, if it is a string that
// can be written in UTF-8. Without escapes the result aliases token.
func unquote(token []byte) ([]byte, bool) {
	if token[0] != '"' {
		return nil, false
	}
	in := token[1 : len(token)-1]
	if bytes.IndexByte(in, '\\') < 0 {
		return in, true
	}
	out := make([]byte, 0, len(in))
	for len(in) > 0 {
		r, n := char(in)
		if r == utf8.RuneError && n == 6 && in[0] == '\\' && hex4(in[2:]) != utf8.RuneError {
			return nil, false
		}
		out = utf8.AppendRune(out, r)
		in = in[n:]
	}
	return out, true
}

// quote shortens a key for an error message.
func quote(token []byte) string {
	if len(token) > 64 {
		return fmt.Sprintf("%.64q…", token)
	}
	return string(token)
}
