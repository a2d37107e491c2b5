package merge

import (
	"context"
	"encoding/binary"
	"net/http"

	"github.com/leasehold/leasehold/dataplane/catalogue"
	"github.com/leasehold/leasehold/dataplane/mcp"
)

// Bounds of a page of a list.
const (
	pageItems = 1000
	pageBytes = 1 << 20
)

// list serves a request for a list. What slow parts have comes later, by list_changed.
func (m *merged) list(ctx context.Context, r *request) (*http.Response, error) {
	kind := kindListedBy(r.message.Method)
	from := 0
	if raw := r.param("cursor"); raw != nil && raw[0] != 'n' {
		cursor, ok := m.openCursor(raw)
		if from = parsePageCursor(cursor, kind); !ok || from < 0 {
			return r.refuse(mcp.CodeInvalidParams, "params.cursor is not one of this list"), nil
		}
	}
	m.ready(ctx, kindSet(0).with(kind), nil)
	items := m.items()
	page, next, more := items.Page(kind, from, pageItems, pageBytes)
	if from == 0 {
		m.mu.Lock()
		m.gaveLocked(kind, items.Hash(kind))
		m.mu.Unlock()
	}
	body := make([]byte, 0, len(page)+256)
	body = append(append(body, `{"jsonrpc":"2.0","id":`...), r.message.ID...)
	body = append(append(append(body, `,"result":{"`...), kind.Member()...), `":[`...)
	body = append(append(body, page...), ']')
	if more {
		body = mcp.AppendQuoted(append(body, `,"nextCursor":`...), m.sealCursor(formatPageCursor(kind, next, items.Hash(kind))))
	}
	return answerJSON(http.StatusOK, append(body, "}}"...)), nil
}

func kindListedBy(method string) catalogue.Kind {
	for k := range catalogue.Kinds {
		if k.Method() == method {
			return k
		}
	}
	return 0
}

// formatPageCursor returns the cursor of what follows on a page: the kind, the place,
// and which catalogue it was a place in. One of an older catalogue goes on at the same
// place, as clients are told of the change by list_changed and would not recover from an
// error.
func formatPageCursor(kind catalogue.Kind, place int, hash catalogue.Hash) []byte {
	cursor := binary.AppendUvarint([]byte{'c', byte(kind)}, uint64(place))
	return append(cursor, hash[:8]...)
}

// parsePageCursor returns the place that a cursor of a kind names; -1 if it is none.
func parsePageCursor(cursor []byte, kind catalogue.Kind) (place int) {
	if len(cursor) < 11 || cursor[0] != 'c' || cursor[1] != byte(kind) {
		return -1
	}
	at, n := binary.Uvarint(cursor[2 : len(cursor)-8])
	if n <= 0 || n != len(cursor)-10 || at > 1<<31 {
		return -1
	}
	return int(at)
}
