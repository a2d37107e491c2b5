package mcp

// Lookup returns the raw value at a path of nested object members. It tells
// false if raw is not JSON, if a step is not an object or lacks the member, or
// if it has that member twice or also mis-cased: then parsers differ in which one
// counts. With an empty path it returns raw without the white space around it.
//
// The value aliases raw. Lookup reads all of raw and is not for the hot path.
func Lookup(raw []byte, path ...string) (value []byte, ok bool) {
	value, ok = trim(raw)
	for _, name := range path {
		if !ok {
			return nil, false
		}
		var like likeness
		value, like = pick(value, name)
		ok = like == same
	}
	return value, ok
}

// trim returns the JSON value that raw is, without the white space around it.
func trim(raw []byte) ([]byte, bool) {
	s := scanner{b: raw, max: MaxDepth}
	i := s.space(0)
	end := s.value(i, 0)
	if end < 0 || !s.end(end) {
		return nil, false
	}
	return raw[i:end], true
}

// pick returns the member called name of raw, a valid JSON value. It tells
// whether it is there and, as misspelt, whether it is there twice or there is
// one that a lenient parser may take for it.
func pick(raw []byte, name string) (value []byte, like likeness) {
	s := scanner{b: raw, max: MaxDepth}
	if s.at(0) != '{' { // nil included
		return nil, different
	}
	depth := 0
	i, more := s.open(0, &depth, '}')
	for more {
		var k span
		i, k = s.key(i)
		from := i
		i = s.value(i, depth)
		switch this := compare(raw[k.from:k.to], name); {
		case this == misspelt, this == same && like != different:
			value, like = nil, misspelt
		case this == same:
			value, like = raw[from:i], same
		}
		i, more = s.next(i, '}')
	}
	return value, like
}

// Unquote returns the text of a JSON string token. It tells false if raw is
// anything else, or text that no UTF-8 can carry (half a surrogate pair).
func Unquote(raw []byte) (string, bool) {
	s := scanner{b: raw, max: MaxDepth}
	if s.at(0) != '"' || s.str(0) != len(raw) {
		return "", false
	}
	text, ok := unquote(raw)
	return string(text), ok
}

// InitializeParams is what the gateway keeps of the params of initialize.
type InitializeParams struct {
	ProtocolVersion string // not empty
	ClientName      string
	ClientVersion   string
	Capabilities    []byte // an object, or nil if absent; aliases params
}

// ParseInitializeParams reads the params of initialize. The protocol version
// must be there; clientInfo and capabilities are the upstream's to demand, but
// what is there must be of the right type. An error is an *[Error] with
// CodeInvalidParams.
func ParseInitializeParams(params []byte) (InitializeParams, error) {
	f := fields{raw: params, what: "params of initialize"}
	f.object("clientInfo")
	p := InitializeParams{
		ProtocolVersion: f.text(true, "protocolVersion"),
		ClientName:      f.text(false, "clientInfo", "name"),
		ClientVersion:   f.text(false, "clientInfo", "version"),
		Capabilities:    f.object("capabilities"),
	}
	if f.err != nil {
		return InitializeParams{}, f.err
	}
	return p, nil
}

// ParseInitializeResult returns the protocol version that the result of
// initialize names, which is a date. An error is an *[Error] with CodeInvalidParams.
func ParseInitializeResult(result []byte) (protocolVersion string, err error) {
	f := fields{raw: result, what: "result of initialize"}
	v := f.text(true, "protocolVersion")
	if f.err == nil && !isDate(v) { // it is kept and shown, and could be any text
		f.fail([]string{"protocolVersion"}, "is not a date such as "+V20251125)
	}
	if f.err != nil {
		return "", f.err
	}
	return v, nil
}

// fields reads members of raw and remembers the first one that is not right.
type fields struct {
	raw  []byte
	what string
	err  error
}

// text returns the string at path; "" if it is absent and need not be there.
func (f *fields) text(required bool, path ...string) string {
	v := f.find(path)
	if v == nil {
		if required {
			f.fail(path, "is missing")
		}
		return ""
	}
	text, ok := Unquote(v)
	if !ok || required && text == "" {
		f.fail(path, "is not a string of at least one character")
	}
	return text
}

// object returns the object at path, or nil if it is absent.
func (f *fields) object(path ...string) []byte {
	v := f.find(path)
	if v != nil && v[0] != '{' {
		f.fail(path, "is not an object")
		return nil
	}
	return v
}

// find returns the value at path, or nil if it is absent.
func (f *fields) find(path []string) []byte {
	v, ok := trim(f.raw)
	if !ok || v[0] != '{' {
		f.fail(nil, "is not an object")
		return nil
	}
	for i, name := range path {
		var like likeness
		if v, like = pick(v, name); like == misspelt {
			f.fail(path[:i+1], "is there twice, or once mis-cased")
		}
	}
	return v
}

func (f *fields) fail(path []string, what string) {
	if f.err != nil {
		return
	}
	name := f.what
	for _, step := range path {
		name = step + " of " + name
	}
	f.err = &Error{Code: CodeInvalidParams, Message: name + " " + what}
}
