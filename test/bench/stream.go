package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http/httputil"
	"strconv"
	"time"
)

// sentMark is before the time at which the upstream wrote an event, in
// nanoseconds of the clock that all processes of the machine share.
const sentMark = "sent at "

// streamPause is how long the upstream waits between the first event of a call
// and its result: long enough for a path that holds events back to show.
const streamPause = 20 * time.Millisecond

// listener is a client whose calls are answered with a stream, and that takes
// the time from the upstream's writing the first event to its arrival.
type listener struct{ *caller }

// step makes one call and keeps the first event's time on the way.
func (l listener) step() error {
	if _, err := l.conn.Write(l.request.next()); err != nil {
		return err
	}
	if err := l.readHead(); err != nil {
		return err
	}
	if l.status != 200 || !l.chunked {
		return fmt.Errorf("a call was answered with status %d, not with a stream", l.status)
	}
	l.body = l.body[:0]
	chunks := httputil.NewChunkedReader(l.in)
	if err := l.firstEvent(chunks); err != nil {
		return err
	}
	if err := l.appendAll(chunks); err != nil {
		return err
	}
	if err := l.endChunks(); err != nil {
		return err
	}
	return l.checkAnswer(l.request)
}

// firstEvent reads up to the end of the first event that says when it was sent.
func (l listener) firstEvent(chunks io.Reader) error {
	for {
		l.body = append(l.body, make([]byte, 1<<10)...)[:len(l.body)]
		n, err := chunks.Read(l.body[len(l.body):cap(l.body)])
		now := time.Now()
		l.body = l.body[:len(l.body)+n]
		if sent, ok := sentTime(l.body); ok {
			l.latencies = append(l.latencies, now.Sub(sent))
			return nil
		}
		if err != nil {
			return fmt.Errorf("a stream without an event: %w", err)
		}
	}
}

// sentTime finds when the event at the begin of a stream was sent, if all of
// the event is there.
func sentTime(stream []byte) (time.Time, bool) {
	_, rest, ok := bytes.Cut(stream, []byte(sentMark))
	if !ok || !bytes.Contains(rest, []byte("\n\n")) {
		return time.Time{}, false
	}
	digits, _, _ := bytes.Cut(rest, []byte(`"`))
	nanoseconds, err := strconv.ParseInt(string(digits), 10, 64)
	return time.Unix(0, nanoseconds), err == nil
}

// appendFirstEvent appends the head of a stream and its first event, which says
// that it is sent now.
func appendFirstEvent(out []byte) []byte {
	out = append(out, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n"...)
	return appendProgress(out)
}

// appendProgress appends an event that says that it is sent now.
func appendProgress(out []byte) []byte {
	return appendChunk(out, fmt.Sprintf("data: "+`{"jsonrpc":"2.0","method":"notifications/progress","params":`+
		`{"progressToken":1,"progress":1,"message":"`+sentMark+`%d"}}`+"\n\n", time.Now().UnixNano()))
}

// appendLastEvent appends the event with the result of a call, and the end.
func appendLastEvent(out, id []byte) []byte {
	out = appendChunk(out, fmt.Sprintf(`data: {"jsonrpc":"2.0","id":%s`+callResult+"\n\n", id))
	return append(out, "0\r\n\r\n"...)
}

// appendChunk appends a chunk.
func appendChunk(out []byte, data string) []byte {
	return fmt.Appendf(out, "%x\r\n%s\r\n", len(data), data)
}
