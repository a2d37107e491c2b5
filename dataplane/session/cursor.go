package session

import (
	"encoding/base64"
	"strconv"
	"strings"

	"github.com/leasehold/leasehold/dataplane/mcp"
)

// The event ids that clients see name the upstream, what kind of stream the event
// was on, and where in it:
//
//	{upstream}/g/{id}   the upstream's own id, on its GET stream
//	{upstream}/p/{id}   the upstream's own id, on the stream of a POST
//	{upstream}/r/{epoch}.{log}.{number}[.{request id}]
//	                    the upstream gives no ids: kept here for a while
//
// So any worker can tell what a client asks for with Last-Event-ID, whoever owns
// the session by then.
const (
	kindGet    = 'g'
	kindPost   = 'p'
	kindReplay = 'r'
)

// maxCursorRequest bounds the JSON-RPC id that an event id can carry.
const maxCursorRequest = 64

// maxCursor bounds what an event id of ours adds to an event.
const maxCursor = 256

// cursor is an event id taken apart. The zero value is none.
type cursor struct {
	kind byte
	id   string // the upstream's, for kindGet and kindPost

	// For kindReplay:
	epoch, log, number uint64
	request            []byte // the JSON-RPC id of the request; nil on a GET stream
}

// prefix is what an event id begins with.
func (s *Session) prefix(kind byte) string { return s.upstream().Name + "/" + string(rune(kind)) + "/" }

// parseCursor takes apart what a client says in Last-Event-ID. What is no id of
// ours is the upstream's, as of a session that an older worker served.
func (s *Session) parseCursor(lastEventID string) cursor {
	rest, ok := strings.CutPrefix(lastEventID, s.upstream().Name+"/")
	if !ok || len(rest) < 2 || rest[1] != '/' {
		return cursor{kind: kindPost, id: lastEventID}
	}
	switch c := (cursor{kind: rest[0], id: rest[2:]}); c.kind {
	case kindGet, kindPost:
		return c
	case kindReplay:
		if r, ok := parseReplay(c.id); ok {
			return r
		}
	}
	return cursor{kind: kindPost, id: lastEventID}
}

func parseReplay(id string) (cursor, bool) {
	parts := strings.Split(id, ".")
	if len(parts) != 3 && len(parts) != 4 {
		return cursor{}, false
	}
	c := cursor{kind: kindReplay}
	var err error
	for i, to := range []*uint64{&c.epoch, &c.log, &c.number} {
		if *to, err = strconv.ParseUint(parts[i], 10, 64); err != nil {
			return cursor{}, false
		}
	}
	if len(parts) == 4 {
		if c.request, err = base64.RawURLEncoding.DecodeString(parts[3]); err != nil || !isID(c.request) {
			return cursor{}, false
		}
	}
	return c, true
}

// appendReplay appends the event id of an event that is kept here.
func (s *Session) appendReplay(dst []byte, log, number uint64, request []byte) []byte {
	dst = append(dst, s.upstream().Name...)
	dst = append(dst, '/', kindReplay, '/')
	dst = append(strconv.AppendUint(dst, s.epoch, 10), '.')
	dst = append(strconv.AppendUint(dst, log, 10), '.')
	dst = strconv.AppendUint(dst, number, 10)
	if len(request) > 0 && len(request) <= maxCursorRequest {
		dst = base64.RawURLEncoding.AppendEncode(append(dst, '.'), request)
	}
	return dst
}

// isID reports whether raw, which a client made up perhaps, is a JSON-RPC id.
func isID(raw []byte) bool {
	v, ok := mcp.Lookup(raw)
	return ok && len(v) == len(raw) && (v[0] == '"' || v[0] == '-' || v[0] >= '0' && v[0] <= '9')
}
