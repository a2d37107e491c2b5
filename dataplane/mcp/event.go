package mcp

import (
	"bytes"
	"strconv"
	"time"
)

// Event is one block of a stream of server-sent events: lines up to and with a
// blank one. Many blocks carry no message: comments, retry hints, ids alone.
type Event struct {
	// Raw is the block exactly as it came, line endings and blank line included.
	// It is valid until the next call of Next.
	Raw []byte
	// Partial tells that the stream ended before the blank line. A client drops
	// such a block.
	Partial bool

	bom bool // Raw begins with a byte order mark
}

// Data returns the data lines joined with LF. It is nil without a data field
// and empty but not nil for an empty one. With one data line it aliases Raw,
// otherwise it is written over scratch, which may be nil.
func (e Event) Data(scratch []byte) []byte {
	var data []byte
	n := 0
	for l := e.lines(); l.next(); {
		if l.name != fieldData {
			continue
		}
		switch n++; n {
		case 1:
			data = l.value
			continue
		case 2:
			data = append(scratch[:0], data...)
		}
		data = append(data, '\n')
		data = append(data, l.value...)
	}
	return data
}

// ID returns the block's id field, the last one if there are several. An empty
// id is an id: it resets the client's last one. An id with a NUL in it is none.
func (e Event) ID() (string, bool) {
	var id []byte
	for l := e.lines(); l.next(); {
		if l.name == fieldID && bytes.IndexByte(l.value, 0) < 0 {
			id = l.value
		}
	}
	return string(id), id != nil
}

// HasID reports whether the block has an id.
func (e Event) HasID() bool {
	for l := e.lines(); l.next(); {
		if l.name == fieldID && bytes.IndexByte(l.value, 0) < 0 {
			return true
		}
	}
	return false
}

// Name returns the event's type: its event field, or "message".
func (e Event) Name() string {
	var name []byte
	for l := e.lines(); l.next(); {
		if l.name == fieldEvent {
			name = l.value
		}
	}
	switch string(name) {
	case "", "message":
		return "message"
	case "endpoint":
		return "endpoint"
	}
	return string(name)
}

// Retry returns the block's retry field, the last one that is a number, as the
// time to wait before a reconnection.
func (e Event) Retry() (wait time.Duration, ok bool) {
	for l := e.lines(); l.next(); {
		if l.name != fieldRetry {
			continue
		}
		if ms, err := strconv.ParseUint(string(l.value), 10, 31); err == nil {
			wait, ok = time.Duration(ms)*time.Millisecond, true
		}
	}
	return wait, ok
}

func (e Event) lines() lines {
	if e.bom {
		return lines{rest: e.Raw[len(byteOrderMark):]}
	}
	return lines{rest: e.Raw}
}

// field is the name of a field that we know.
type field uint8

const (
	fieldOther field = iota
	fieldData
	fieldID
	fieldEvent
	fieldRetry
)

// lines walks over the lines of a block and takes them apart.
type lines struct {
	rest  []byte
	name  field
	value []byte
}

// next steps to the next line; false after the last one.
func (l *lines) next() bool {
	if len(l.rest) == 0 {
		return false
	}
	line, after := l.rest, len(l.rest)
	if i := lineEnd(l.rest); i >= 0 {
		line, after = l.rest[:i], i+1
		if l.rest[i] == '\r' && after < len(l.rest) && l.rest[after] == '\n' {
			after++
		}
	}
	l.rest = l.rest[after:]
	name, value := line, line[len(line):]
	if i := bytes.IndexByte(line, ':'); i >= 0 {
		name, value = line[:i], line[i+1:]
	}
	if len(value) > 0 && value[0] == ' ' {
		value = value[1:]
	}
	l.name, l.value = fieldOf(name), value
	return true
}

func fieldOf(name []byte) field {
	switch string(name) {
	case "data":
		return fieldData
	case "id":
		return fieldID
	case "event":
		return fieldEvent
	case "retry":
		return fieldRetry
	}
	return fieldOther
}

// lineEnd returns the offset of the first CR or LF, or -1. It looks at a
// stretch at a time so that a text with only one of the two is not searched to
// its end for the other one, for every line again.
func lineEnd(b []byte) int {
	const stretch = 512
	for from := 0; from < len(b); from += stretch {
		part := b[from:min(from+stretch, len(b))]
		lf := bytes.IndexByte(part, '\n')
		if lf >= 0 {
			part = part[:lf]
		}
		if cr := bytes.IndexByte(part, '\r'); cr >= 0 {
			return from + cr
		}
		if lf >= 0 {
			return from + lf
		}
	}
	return -1
}

// AppendEvent appends data, which is JSON, as an event of the type message.
// Line breaks between its tokens split it into several data lines; a reader
// gets each of them back as LF.
func AppendEvent(dst, data []byte) []byte {
	dst = append(dst, "event: message\n"...)
	for {
		dst = append(dst, "data: "...)
		i := lineEnd(data)
		if i < 0 {
			dst = append(dst, data...)
			return append(dst, "\n\n"...)
		}
		dst = append(dst, data[:i]...)
		dst = append(dst, '\n')
		if data[i] == '\r' && i+1 < len(data) && data[i+1] == '\n' {
			i++
		}
		data = data[i+1:]
	}
}
