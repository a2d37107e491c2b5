package mcp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Sizes of an [EventReader].
const (
	// DefaultMaxEvent is the bound on a block where none is given.
	DefaultMaxEvent = 4 << 20

	firstBuffer = 4 << 10  // what a reader starts with
	keptBuffer  = 64 << 10 // more than that is given back when it is not needed
)

const byteOrderMark = "\ufeff"

// ErrEventTooLarge is the state of a stream with a block beyond the reader's
// bound. The error itself is an [*EventTooLargeError].
var ErrEventTooLarge = errors.New("server-sent event is too large")

// EventTooLargeError tells which bound a block passed. It is ErrEventTooLarge.
type EventTooLargeError struct{ Max int }

func (e *EventTooLargeError) Error() string {
	return fmt.Sprintf("%v: more than %d bytes", ErrEventTooLarge, e.Max)
}

// Is reports whether target is ErrEventTooLarge.
func (e *EventTooLargeError) Is(target error) bool { return target == ErrEventTooLarge }

// EventReader cuts a stream of server-sent events into blocks, without changing
// or losing a byte: the Raw of all its events is the stream. A block is handed
// out as soon as its blank line is there, whatever the line endings.
//
// Where a read ends between the CR and the LF of a blank line, the block is
// handed out at once and the LF comes with the next block or, if that is not
// complete, as an Event of its own, without fields.
//
// It is not safe for concurrent use. The zero value reads nothing: use
// NewEventReader or Reset.
type EventReader struct {
	src io.Reader
	max int
	err error // what the source ended with

	buf  []byte // what was read, of which [from:] is not handed out yet
	from int    // where the block begins
	line int    // where the line begins that is being scanned
	scan int    // up to here that line has no end
	end  int    // where the block ends, 0 if that is not known
	last int    // how long the block before was

	first bool // nothing was handed out yet: a byte order mark may come
	half  bool // the line before ended with CR: an LF that follows belongs to it
	lf    bool // the block begins with an LF that belongs to the one before
}

// NewEventReader returns a reader of r's events. A block may have maxEvent bytes
// at most; 0 means DefaultMaxEvent.
func NewEventReader(r io.Reader, maxEvent int) *EventReader {
	if maxEvent <= 0 {
		maxEvent = DefaultMaxEvent
	}
	e := &EventReader{max: maxEvent}
	e.Reset(r)
	return e
}

// Reset makes e read another stream, with the same bound. A buffer that grew
// large is given back. With nil, e holds no stream and Next returns io.EOF.
func (e *EventReader) Reset(src io.Reader) {
	buf := e.buf[:0]
	if cap(buf) > keptBuffer {
		buf = nil
	}
	*e = EventReader{src: src, max: e.max, buf: buf, first: true}
	if e.max == 0 {
		e.max = DefaultMaxEvent
	}
	if src == nil {
		e.err = io.EOF
	}
}

// Next returns the next block. When the stream ends, what is left without a
// blank line comes as a Partial event, and after that the error that it ended
// with: io.EOF if none. When a block is larger than the bound, Next returns an
// error that is [ErrEventTooLarge] and reads no further.
func (e *EventReader) Next() (Event, error) {
	for {
		found := e.find()
		size := len(e.buf) - e.from // never more than max: the buffer is not larger
		switch {
		case found:
			return e.take(e.end), nil
		case e.lf:
			return e.take(e.from + 1), nil
		case e.err != nil && size == 0:
			return Event{}, e.err
		case e.err != nil:
			rest := e.take(len(e.buf))
			rest.Partial = true
			return rest, nil
		case size == e.max:
			return Event{}, &EventTooLargeError{Max: e.max}
		}
		e.fill()
	}
}

// Buffered reports whether another complete block has been read already: a
// caller may put off a flush until it has that one too.
func (e *EventReader) Buffered() bool { return e.find() }

// find looks on for the end of the block in what has been read.
func (e *EventReader) find() bool {
	for e.end == 0 && e.scan < len(e.buf) {
		if e.half {
			e.half = false
			if e.buf[e.scan] == '\n' {
				e.lf = e.scan == e.from
				e.scan++
				e.line = e.scan
				continue
			}
		}
		i := lineEnd(e.buf[e.scan:])
		if i < 0 {
			e.scan = len(e.buf)
			break
		}
		e.endLine(e.scan + i)
	}
	return e.end != 0
}

// endLine steps over the line end at i.
func (e *EventReader) endLine(i int) {
	blank := i == e.line || e.first && e.line == 0 && string(e.buf[:i]) == byteOrderMark
	after := i + 1
	if e.buf[i] == '\r' {
		if e.half = after == len(e.buf); !e.half && e.buf[after] == '\n' {
			after++
		}
	}
	e.line, e.scan = after, after
	if blank {
		e.end = after
	}
}

// take hands out what is there up to end.
func (e *EventReader) take(end int) Event {
	raw := e.buf[e.from:end:end]
	ev := Event{Raw: raw, bom: e.first && bytes.HasPrefix(raw, []byte(byteOrderMark))}
	if e.end == end {
		e.end = 0
	}
	e.from, e.last, e.first, e.lf = end, len(raw), false, false
	return ev
}

// fill reads once. The block is not complete and shorter than max, so there is
// room or can be made.
func (e *EventReader) fill() {
	if e.from == len(e.buf) && cap(e.buf) > keptBuffer && e.last <= keptBuffer {
		e.move(nil)
	}
	switch {
	case e.from == len(e.buf), len(e.buf) == cap(e.buf) && e.from > 0:
		e.move(e.buf[:0])
	}
	if len(e.buf) == cap(e.buf) {
		e.move(make([]byte, 0, min(max(2*cap(e.buf), firstBuffer), e.max)))
	}
	for range 100 { // as bufio does it
		var n int
		n, e.err = e.src.Read(e.buf[len(e.buf):cap(e.buf)])
		e.buf = e.buf[:len(e.buf)+n]
		if n > 0 || e.err != nil {
			return
		}
	}
	e.err = io.ErrNoProgress
}

// move makes buf, which may be the same one, the buffer.
func (e *EventReader) move(buf []byte) {
	e.buf = append(buf, e.buf[e.from:]...)
	e.line -= e.from
	e.scan -= e.from
	e.from = 0
}
