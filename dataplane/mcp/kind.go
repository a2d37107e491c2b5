package mcp

// KindOf tells what a message is that an upstream sent, and the id of a request,
// as it came. It reads no further than the member that tells, and returns 0 for
// what is not a JSON-RPC message. A batch is a response if there is one in it,
// otherwise its first request, otherwise a notification.
func KindOf(data []byte) (kind Kind, id []byte) {
	s := scanner{b: data, max: MaxDepth}
	i, depth := s.space(0), 0
	if s.at(i) != '[' {
		return s.kind(i, depth)
	}
	for i, more := s.open(i, &depth, ']'); more; i, more = s.next(i, ']') {
		switch k, kid := s.kind(i, depth); {
		case k == KindResponse:
			return k, nil
		case kind == 0, kind == KindNotification && k == KindRequest:
			kind, id = k, kid
		}
		if i = s.value(i, depth); i < 0 {
			break
		}
	}
	return kind, id
}

// kind is KindOf for the one message at i, inside of depth arrays.
func (s *scanner) kind(i, depth int) (kind Kind, id []byte) {
	if s.at(i) != '{' {
		return 0, nil
	}
	method := false
	for i, more := s.open(i, &depth, '}'); i >= 0; i, more = s.next(i, '}') {
		if !more {
			return called(method, id), id
		}
		var k span
		if i, k = s.key(i); i < 0 {
			break
		}
		key, fits := s.envelopeKey(k)
		if fits && (key == memberResult || key == memberError) {
			return KindResponse, nil
		}
		from := i
		if i = s.value(i, depth); i < 0 {
			break
		}
		switch {
		case !fits:
		case key == memberMethod:
			method = true
		case key == memberID:
			id = s.b[from:i]
		}
		if method && id != nil {
			return KindRequest, id
		}
	}
	return 0, nil
}

// called is the kind of a message that is no answer, once all of it was read.
func called(method bool, id []byte) Kind {
	switch {
	case !method:
		return 0
	case id == nil:
		return KindNotification
	}
	return KindRequest
}

// IsResponse reports whether data, a message that an upstream sent, is an answer
// rather than a request or a notification.
func IsResponse(data []byte) bool {
	kind, _ := KindOf(data)
	return kind == KindResponse
}
