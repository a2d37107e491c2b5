package mcp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// cut marks a partial block in what blocks returns.
const cut = "(partial) "

// blocks reads all of r and returns its blocks and what it ended with.
func blocks(r *EventReader) (all []string, err error) {
	for {
		ev, err := r.Next()
		if err != nil {
			return all, err
		}
		raw := string(ev.Raw)
		if ev.Partial {
			raw = cut + raw
		}
		all = append(all, raw)
	}
}

func TestBlocksAreCutAtBlankLines(t *testing.T) {
	tests := []struct {
		name, stream string
		want         []string
	}{
		{"nothing", "", nil},
		{"LF", "data: a\n\ndata: b\n\n", []string{"data: a\n\n", "data: b\n\n"}},
		{"CRLF", "data: a\r\n\r\ndata: b\r\n\r\n", []string{"data: a\r\n\r\n", "data: b\r\n\r\n"}},
		{"CR", "data: a\r\rdata: b\r\r", []string{"data: a\r\r", "data: b\r\r"}},
		{"mixed", "data: a\r\n\ndata: b\n\r\ndata: c\r\n\rdata: d\n\rx\n\n", []string{"data: a\r\n\n", "data: b\n\r\n", "data: c\r\n\r", "data: d\n\r", "x\n\n"}},
		{"several lines", "id: 1\nevent: x\ndata: a\ndata: b\n\n", []string{"id: 1\nevent: x\ndata: a\ndata: b\n\n"}},
		{"comments and retry", ": hi\n\nretry: 5\n\n", []string{": hi\n\n", "retry: 5\n\n"}},
		{"empty blocks", "\n\n\r\n\r\rdata: a\n\n\n", []string{"\n", "\n", "\r\n", "\r", "\r", "data: a\n\n", "\n"}},
		{"byte order mark", "\ufeffdata: a\n\n", []string{"\ufeffdata: a\n\n"}},
		{"byte order mark alone in its line", "\ufeff\ndata: a\n\n", []string{"\ufeff\n", "data: a\n\n"}},
		{"byte order mark later is none", "data: a\n\n\ufeff\ndata: b\n\n", []string{"data: a\n\n", "\ufeff\ndata: b\n\n"}},
		{"cut off in a line", "data: a\n\ndata: b", []string{"data: a\n\n", cut + "data: b"}},
		{"cut off behind a line", "data: a\n", []string{cut + "data: a\n"}},
		{"cut off behind CR", "data: a\r", []string{cut + "data: a\r"}},
		{"cut off in a byte order mark", "\xef\xbb", []string{cut + "\xef\xbb"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := blocks(NewEventReader(strings.NewReader(tt.stream), 0))
			if err != io.EOF || !slices.Equal(got, tt.want) {
				t.Errorf("%q\n got %q, %v\nwant %q, EOF", tt.stream, got, err, tt.want)
			}
			got, err = blocks(NewEventReader(iotest.OneByteReader(strings.NewReader(tt.stream)), 0))
			if err != io.EOF || !slices.Equal(joinHalves(got), tt.want) {
				t.Errorf("%q byte by byte\n got %q, %v\nwant %q, EOF", tt.stream, got, err, tt.want)
			}
		})
	}
}

// joinHalves puts an LF that was split from the CR of a blank line back to its
// block.
func joinHalves(all []string) (joined []string) {
	for _, raw := range all {
		if n := len(joined); n > 0 && raw == "\n" && strings.HasSuffix(joined[n-1], "\r") {
			joined[n-1] += raw
			continue
		}
		joined = append(joined, raw)
	}
	return joined
}

// A block that waits for the next byte is an answer that a client waits for.
func TestBlockIsDeliveredWithItsBlankLine(t *testing.T) {
	for _, stream := range []string{"data: a\n\n", "data: a\r\n\r\n", "data: a\r\r", "data: a\n\r", "data: a\r\n\n", "data: a\r\n\r", "\n", "\r", ": keep-alive\n\n"} {
		src, w := io.Pipe()
		go w.Write([]byte(stream)) // ends when the block was read, and nothing follows
		ev, err := NewEventReader(src, 0).Next()
		if err != nil || string(ev.Raw) != stream || ev.Partial {
			t.Errorf("%q: got %q, partial %v, %v", stream, ev.Raw, ev.Partial, err)
		}
	}
}

// chunks is a reader that returns one chunk a time, then io.EOF.
type chunks [][]byte

func (c *chunks) Read(p []byte) (int, error) {
	if len(*c) == 0 {
		return 0, io.EOF
	}
	n := copy(p, (*c)[0])
	if (*c)[0] = (*c)[0][n:]; len((*c)[0]) == 0 {
		*c = (*c)[1:]
	}
	return n, nil
}

func chunksOf(texts ...string) *chunks {
	var c chunks
	for _, text := range texts {
		c = append(c, []byte(text))
	}
	return &c
}

func TestLineFeedThatCameLateIsNotLost(t *testing.T) {
	tests := []struct {
		name string
		src  *chunks
		want []string
	}{
		{"alone: at once, for a client that waits for it", chunksOf("data: a\r\n\r", "\n", "data: b\n\n"), []string{"data: a\r\n\r", "\n", "data: b\n\n"}},
		{"with a complete block: in that", chunksOf("data: a\r\n\r", "\ndata: b\n\n"), []string{"data: a\r\n\r", "\ndata: b\n\n"}},
		{"with a part of a block: not held back", chunksOf("data: a\r\n\r", "\ndata: b", "\n\n"), []string{"data: a\r\n\r", "\n", "data: b\n\n"}},
		{"before the end: not partial", chunksOf("data: a\r\n\r", "\n"), []string{"data: a\r\n\r", "\n"}},
		{"it is no blank line", chunksOf("data: a\r", "\n", "data: b\r\n\r\n"), []string{"data: a\r\ndata: b\r\n\r\n"}},
		{"another LF is one", chunksOf("data: a\r\r", "\n\n"), []string{"data: a\r\r", "\n\n"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := blocks(NewEventReader(tt.src, 0))
			if err != io.EOF || !slices.Equal(got, tt.want) {
				t.Errorf("got %q, %v\nwant %q", got, err, tt.want)
			}
		})
	}
	r := NewEventReader(chunksOf("data: a\r\r", "\ndata: b\r\r"), 0)
	r.Next()
	if ev, _ := r.Next(); string(ev.Data(nil)) != "b" {
		t.Errorf("data behind the LF is %q, want b", ev.Data(nil))
	}
}

func TestEventFields(t *testing.T) {
	type fields struct {
		data  any // nil or a string
		id    any
		name  string
		retry time.Duration
	}
	tests := []struct {
		name, block string
		want        fields
	}{
		{"data", "data: {}\n\n", fields{data: "{}", name: "message"}},
		{"no space", "data:{}\n\n", fields{data: "{}", name: "message"}},
		{"one space goes", "data:  {}\n\n", fields{data: " {}", name: "message"}},
		{"lines join with LF", "data: a\r\ndata:b\rdata\ndata: \n\n", fields{data: "a\nb\n\n", name: "message"}},
		{"other fields between", "data: a\n: c\nid: 7\ndata: b\n\n", fields{data: "a\nb", id: "7", name: "message"}},
		{"priming", "id: s1_0\ndata:\n\n", fields{data: "", id: "s1_0", name: "message"}},
		{"data without a colon", "data\n\n", fields{data: "", name: "message"}},
		{"no data", "id: 1\nretry: 500\n\n", fields{id: "1", name: "message", retry: 500 * time.Millisecond}},
		{"comment", ":data: x\n\n", fields{name: "message"}},
		{"name", "event: endpoint\ndata: /m?a=b:c\n\n", fields{data: "/m?a=b:c", name: "endpoint"}},
		{"last name", "event: x\nevent: y\ndata: 1\n\n", fields{data: "1", name: "y"}},
		{"empty name", "event: x\nevent\ndata: 1\n\n", fields{data: "1", name: "message"}},
		{"empty id", "id: 1\nid\n\n", fields{id: "", name: "message"}},
		{"id with NUL", "id: 1\nid: a\x00b\n\n", fields{id: "1", name: "message"}},
		{"fields are case-sensitive", "Data: x\nDATA: y\n id: 1\n\n", fields{name: "message"}},
		{"bad retry", "retry: 5\nretry: +6\nretry: 7s\nretry: 99999999999\nretry: \n\n", fields{name: "message", retry: 5 * time.Millisecond}},
		{"byte order mark", "\ufeffdata: x\n\n", fields{data: "x", name: "message"}},
		{"not at its end", "data: x", fields{data: "x", name: "message"}},
		{"long CR lines", "data: " + strings.Repeat("x", 2000) + "\rid: 1\r\r", fields{data: strings.Repeat("x", 2000), id: "1", name: "message"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ev, err := NewEventReader(strings.NewReader(tt.block), 0).Next()
			if err != nil {
				t.Fatal(err)
			}
			var got fields
			if data := ev.Data(nil); data != nil {
				got.data = string(data)
			}
			if id, ok := ev.ID(); ok {
				got.id = id
			}
			got.name = ev.Name()
			got.retry, _ = ev.Retry()
			if got != tt.want {
				t.Errorf("%q\n got %+v\nwant %+v", tt.block, got, tt.want)
			}
		})
	}
}

func TestDataAliasesOrUsesScratch(t *testing.T) {
	ev, _ := NewEventReader(strings.NewReader("data: one\n\n"), 0).Next()
	if data := ev.Data(nil); &data[0] != &ev.Raw[len("data: ")] {
		t.Error("one data line was copied")
	}
	ev, _ = NewEventReader(strings.NewReader("data: one\ndata: two\n\n"), 0).Next()
	scratch := make([]byte, 3, 100)
	if data := ev.Data(scratch); &data[0] != &scratch[0] || string(data) != "one\ntwo" {
		t.Errorf("two data lines: got %q, not in scratch", data)
	}
	if string(ev.Raw) != "data: one\ndata: two\n\n" {
		t.Errorf("Data changed Raw to %q", ev.Raw)
	}
}

// endless is a source that must not be read to the end: it counts.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	e.read += len(p)
	return len(p), nil
}

func TestTooLargeBlockEndsTheStream(t *testing.T) {
	for _, bound := range []int{1, 10, firstBuffer, 100_000} {
		var src endless
		r := NewEventReader(&src, bound)
		for range 2 { // and stays so
			_, err := r.Next()
			var typed *EventTooLargeError
			if !errors.Is(err, ErrEventTooLarge) || !errors.As(err, &typed) || typed.Max != bound || !strings.Contains(err.Error(), fmt.Sprint(bound)) {
				t.Fatalf("bound %d: got %v", bound, err)
			}
		}
		if src.read > bound {
			t.Errorf("read %d bytes with a bound of %d", src.read, bound)
		}
	}
}

func TestBlockOfExactlyTheBoundPasses(t *testing.T) {
	const stream = "data: 1234\n\n"
	for _, src := range []io.Reader{strings.NewReader(stream + stream), iotest.OneByteReader(strings.NewReader(stream + stream))} {
		got, err := blocks(NewEventReader(src, len(stream)))
		if err != io.EOF || len(got) != 2 {
			t.Errorf("got %q, %v, want two blocks", got, err)
		}
	}
	got, err := blocks(NewEventReader(strings.NewReader(": 1\n\n"+stream), len(stream)-1))
	if !errors.Is(err, ErrEventTooLarge) || len(got) != 1 {
		t.Errorf("got %q, %v, want one block and then an error", got, err)
	}
	// The bound is on one block, never on the stream.
	if got, err := blocks(NewEventReader(strings.NewReader(strings.Repeat(stream, 10_000)), 100)); err != io.EOF || len(got) != 10_000 {
		t.Errorf("got %d blocks, %v", len(got), err)
	}
	// An LF left over from the block before does not count.
	got, err = blocks(NewEventReader(chunksOf("data: 1\r\r", "\n"+stream), len(stream)))
	if err != io.EOF || len(got) != 3 || got[1] != "\n" {
		t.Errorf("got %q, %v, want the LF on its own", got, err)
	}
}

func TestReadErrorComesAfterWhatWasRead(t *testing.T) {
	broken := errors.New("broken")
	r := NewEventReader(io.MultiReader(strings.NewReader("data: a\n\ndata: b"), iotest.ErrReader(broken)), 0)
	got, err := blocks(r)
	if want := []string{"data: a\n\n", cut + "data: b"}; err != broken || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q, broken", got, err, want)
	}
	if got, err := blocks(NewEventReader(iotest.DataErrReader(strings.NewReader("data: a\n\n")), 0)); err != io.EOF || len(got) != 1 {
		t.Errorf("data and EOF in one read: got %q, %v", got, err)
	}
	if _, err := NewEventReader(idle{}, 0).Next(); err != io.ErrNoProgress {
		t.Errorf("a source that returns nothing: got %v", err)
	}
	r.Reset(nil)
	if _, err := r.Next(); err != io.EOF {
		t.Errorf("no source: got %v", err)
	}
}

type idle struct{}

func (idle) Read([]byte) (int, error) { return 0, nil }

func TestBufferedTellsOfAnotherBlock(t *testing.T) {
	r := NewEventReader(chunksOf("data: a\n\ndata: b\n\ndata: c", "\n\n"), 0)
	if r.Buffered() {
		t.Error("buffered before the first read")
	}
	for i, want := range []bool{true, false, false} {
		ev, err := r.Next()
		raw := string(ev.Raw)
		if got := r.Buffered(); err != nil || got != want || string(ev.Raw) != raw {
			t.Errorf("after block %d: buffered is %v, want %v (%q, %v)", i, got, want, ev.Raw, err)
		}
	}
}

func TestBufferIsSmallAgainAfterALargeBlock(t *testing.T) {
	large := "data: " + strings.Repeat("x", 1<<20) + "\n\n"
	r := NewEventReader(strings.NewReader(large), 0)
	if cap(r.buf) != 0 {
		t.Error("a reader that has read nothing has a buffer")
	}
	if _, err := blocks(r); err != io.EOF || cap(r.buf) < 1<<20 {
		t.Fatalf("buffer is %d, %v", cap(r.buf), err)
	}
	r.Reset(strings.NewReader("data: a\n\n"))
	if cap(r.buf) != 0 {
		t.Errorf("Reset keeps a buffer of %d", cap(r.buf))
	}
	if r.Next(); cap(r.buf) != firstBuffer {
		t.Errorf("after Reset the buffer is %d, want %d", cap(r.buf), firstBuffer)
	}
	kept := &r.buf[:1][0]
	r.Reset(strings.NewReader("data: b\n\n"))
	if r.Next(); &r.buf[:1][0] != kept {
		t.Error("a small buffer was not used again")
	}
	r.Reset(chunksOf(large, ": small\n\n", ": small\n\n"))
	for range 3 {
		r.Next()
	}
	if cap(r.buf) != firstBuffer {
		t.Errorf("on a stream that is quiet again the buffer is %d, want %d", cap(r.buf), firstBuffer)
	}
}

func TestEventReaderDoesNotAllocatePerEvent(t *testing.T) {
	stream := strings.Repeat("event: message\nid: 1\ndata: {}\n\n", 1000)
	src := strings.NewReader(stream)
	r := NewEventReader(src, 0)
	n := testing.AllocsPerRun(10, func() {
		src.Reset(stream)
		r.Reset(src)
		for {
			ev, err := r.Next()
			if err != nil {
				return
			}
			ev.Data(nil)
		}
	})
	if n > 0 {
		t.Errorf("%v allocations for 1000 events", n)
	}
}

// A hostile stream must not cost more than its length.
func TestManyShortLinesAreLinear(t *testing.T) {
	for _, line := range []string{"x\r", "x\n", "xx\r\n"} {
		stream := strings.Repeat(line, 700_000)
		start := time.Now()
		got, err := blocks(NewEventReader(strings.NewReader(stream), 0))
		if err != io.EOF || len(got) != 1 {
			t.Fatalf("%q: %d blocks, %v", line, len(got), err)
		}
		(Event{Raw: []byte(stream)}).Name()
		if d := time.Since(start); d > 5*time.Second { // quadratic would take minutes
			t.Errorf("%q: took %v", line, d)
		}
	}
}

func TestAppendEventComesBack(t *testing.T) {
	for data, want := range map[string]string{
		`{"a":1}`: `{"a":1}`, "": "", "{\n\"a\":1\r\n}\r": "{\n\"a\":1\n}\n", "\n": "\n", "a\r\r\nb": "a\n\nb",
	} {
		raw := AppendEvent([]byte("id: 1\n"), []byte(data))
		ev, err := NewEventReader(bytes.NewReader(raw), 0).Next()
		if err != nil || ev.Partial || !bytes.Equal(ev.Raw, raw) || string(ev.Data(nil)) != want || ev.Name() != "message" {
			t.Errorf("%q became %q, %v, which reads %q", data, raw, err, ev.Data(nil))
		}
	}
	if got := string(AppendEvent(nil, []byte("{}"))); got != "event: message\ndata: {}\n\n" {
		t.Errorf("got %q", got)
	}
}

// reference is the plainest way to cut a stream that is there as a whole.
func reference(stream string) (data []string, partial bool) {
	stream = strings.TrimPrefix(stream, "\ufeff")
	stream = strings.ReplaceAll(strings.ReplaceAll(stream, "\r\n", "\n"), "\r", "\n")
	lines := strings.Split(stream, "\n")
	var current []string
	open := false
	for i, line := range lines {
		if i == len(lines)-1 { // not ended
			open = open || line != ""
			break
		}
		if line == "" {
			if current != nil {
				data = append(data, strings.Join(current, "\n"))
			}
			current, open = nil, false
			continue
		}
		open = true
		name, value, _ := strings.Cut(line, ":")
		if name == "data" {
			current = append(current, strings.TrimPrefix(value, " "))
		}
	}
	return data, open
}

func FuzzEventReader(f *testing.F) {
	for _, seed := range []string{
		"data: a\n\ndata: b\r\n\r\ndata: c\r\rdata: d",
		"\ufeffdata: a\ndata: b\n\n\n\n: c\n\nid: 1\rdata\r\r\n\n",
		"\ufeff\r\n\r\ndata:x\r\n\r", "\r\r\r\n\n\r", "\ufeff", "data: a\r\n\r\n\ufeff\n\n",
	} {
		f.Add([]byte(seed), []byte{1}, false)
		f.Add([]byte(seed), []byte{2, 7, 1}, true)
	}
	f.Fuzz(func(t *testing.T, stream, sizes []byte, peek bool) {
		r := NewEventReader(&sliced{rest: stream, sizes: sizes}, 0)
		var raw []byte
		var data []string
		var partial bool
		for {
			if peek {
				r.Buffered()
			}
			ev, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil || len(ev.Raw) == 0 || partial {
				t.Fatalf("event %q, %v, behind a partial one: %v", ev.Raw, err, partial)
			}
			if raw = append(raw, ev.Raw...); ev.Partial {
				partial = true
				continue
			}
			if d := ev.Data(nil); d != nil {
				data = append(data, string(d))
			}
		}
		wantData, wantPartial := reference(string(stream))
		if !bytes.Equal(raw, stream) {
			t.Fatalf("the raw blocks are %q, want %q", raw, stream)
		}
		if stray := string(stream) == "\ufeff"; !slices.Equal(data, wantData) || partial != wantPartial && !stray {
			t.Fatalf("%q: got %q, partial %v, want %q, %v", stream, data, partial, wantData, wantPartial)
		}
	})
}

// sliced returns rest in slices of the given sizes, over and over.
type sliced struct {
	rest, sizes []byte
	n           int
}

func (s *sliced) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	size := len(s.rest)
	if len(s.sizes) > 0 {
		size = min(size, 1+int(s.sizes[s.n%len(s.sizes)]))
		s.n++
	}
	n := copy(p, s.rest[:size])
	s.rest = s.rest[n:]
	return n, nil
}
