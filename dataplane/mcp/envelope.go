package mcp

// Kind tells what a message is.
type Kind uint8

// The kinds of messages.
const (
	KindRequest      Kind = iota + 1 // has a method and an id
	KindNotification                 // has a method and no id
	KindResponse                     // has a result or an error, and no method
)

// String returns "request", "notification" or "response".
func (k Kind) String() string {
	switch k {
	case KindRequest:
		return "request"
	case KindNotification:
		return "notification"
	case KindResponse:
		return "response"
	}
	return "unknown"
}

// Message is what a relay needs to know of one JSON-RPC message. Its slices are
// raw JSON and alias the body.
type Message struct {
	Kind Kind
	// ID is a string or a number, exactly as it came. It is nil in notifications
	// and in error responses whose id is null.
	ID []byte
	// Method is empty in responses.
	Method string
	// ProtocolVersion is params._meta[MetaProtocolVersion] if that is a string.
	ProtocolVersion string
	// HasModernMeta tells that params._meta has MetaProtocolVersion, of any type.
	HasModernMeta bool
	// Name is params.uri for methods that begin with "resources/", params.name
	// for others; nil if that is absent. It may be of any type.
	Name []byte
	// Params is an object, or nil if absent.
	Params []byte
	// Result and Error are for responses: one of them is not nil. Error is an
	// object, Result may be any value.
	Result, Error []byte
}

// Envelope is a parsed body: one message, or a batch of them.
type Envelope struct {
	// Batch tells that the body was an array, if only of one message. Whether
	// batches are allowed depends on the negotiated protocol version.
	Batch bool

	one  [1]Message
	many []Message
}

// Messages returns the messages, at least one if Parse returned no error. For a
// single message the slice aliases e, which spares the allocation.
func (e *Envelope) Messages() []Message {
	if e.Batch {
		return e.many
	}
	return e.one[:]
}

// First returns the only message, or the first one of a batch.
func (e *Envelope) First() *Message {
	if e.Batch {
		return &e.many[0]
	}
	return &e.one[0]
}

// Bounds that hold where [Limits] says 0, and the highest depth it can ask for.
const (
	DefaultDepth = 64
	DefaultBatch = 100
	MaxDepth     = 1000
)

// Limits bounds what Parse accepts. The size of a body is bounded by who reads it.
type Limits struct {
	Depth int // how deep arrays and objects may nest, the message's own counted; 0 = DefaultDepth
	Batch int // how many messages a batch may have; 0 = DefaultBatch
}

// Parse reads a body: one JSON-RPC 2.0 message, or a non-empty array of them.
// An error is always an *[Error]: CodeParse if the body is not JSON, otherwise
// CodeInvalidRequest, with the ID of the offending message if it has a valid one.
//
// The whole body is checked to be JSON in UTF-8. Members that Parse looks at
// (those of the envelope, params._meta, params.name, params.uri and
// MetaProtocolVersion) must occur once, and no other key may be equal to theirs
// but for case or for what follows a NUL: parsers differ in which one they obey.
// All other members are allowed and not looked at.
func Parse(body []byte, l Limits) (Envelope, error) {
	s := scanner{b: body, max: l.Depth}
	if s.max <= 0 {
		s.max = DefaultDepth
	}
	s.max = min(s.max, MaxDepth)
	if l.Batch <= 0 {
		l.Batch = DefaultBatch
	}
	var env Envelope
	i := s.space(0)
	if env.Batch = s.at(i) == '['; env.Batch {
		i = s.batch(&env, i, l.Batch)
	} else {
		i = s.message(&env.one[0], i, 0)
	}
	if i >= 0 {
		s.end(i)
	}
	if s.err != nil {
		return Envelope{}, s.err
	}
	if s.bad != nil {
		return Envelope{}, s.bad
	}
	return env, nil
}
