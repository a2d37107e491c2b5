package merge

import (
	"encoding/base64"

	"github.com/leasehold/leasehold/dataplane/mcp"
)

// sealCursor returns a cursor as clients of the gateway get it: it tells nothing, and no
// other can be made up. Any worker opens it.
func (m *merged) sealCursor(cursor []byte) string {
	sealed, err := m.up.cfg.World.Load().Ring.Seal(cursor, cursorsOf(m.gateway))
	if err != nil {
		m.log.Error("cursor not sealed, the list ends here", "error", err)
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(sealed)
}

// openCursor returns what sealCursor was given, for a cursor that a client names as JSON.
func (m *merged) openCursor(raw []byte) (cursor []byte, ok bool) {
	text, ok := mcp.Unquote(raw)
	sealed, err := base64.RawURLEncoding.DecodeString(text)
	if !ok || err != nil {
		return nil, false
	}
	cursor, err = m.up.cfg.World.Load().Ring.Unseal(sealed, cursorsOf(m.gateway))
	return cursor, err == nil
}

// cursorsOf is what the cursors of a gateway are sealed for.
func cursorsOf(gateway string) string { return "cursors/" + gateway }
