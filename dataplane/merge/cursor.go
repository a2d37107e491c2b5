package merge

import (
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"slices"
	"strings"
)

// Event ids that the client sees:
//
//	{part}/{id}                        on the stream of a POST: the part's own id
//	={part}:{tag}:{id},{part}:{tag}:…  on the GET stream: the last own id of each part, in
//	                                   base64, and which upstream session it is of; each
//	                                   goes on after its own
//
// Names of parts have none of the characters between.

// position is where the GET stream of a part is.
type position struct {
	tag string // of the upstream session
	id  string // of the last event
}

// tagOf tells a link's upstream session from those that the part had before.
func tagOf(l *link) string {
	sum := sha256.Sum256([]byte(l.id))
	return base64.RawURLEncoding.EncodeToString(sum[:6])
}

// maxCursor bounds an event id of the GET stream. What would be longer is given none.
const maxCursor = 1024

// formatCursor returns the event id of the GET stream after these ids of the parts;
// empty if there is none.
func formatCursor(at map[string]position) string {
	var b strings.Builder
	separator := "="
	for _, name := range slices.Sorted(maps.Keys(at)) {
		b.WriteString(separator + name + ":" + at[name].tag + ":" + base64.RawURLEncoding.EncodeToString([]byte(at[name].id)))
		separator = ","
		if b.Len() > maxCursor {
			return ""
		}
	}
	return b.String()
}

// parseCursor returns the positions that an event id of the GET stream has. It tells
// false if it is none.
func parseCursor(id string) (at map[string]position, ok bool) {
	text, ok := strings.CutPrefix(id, "=")
	if !ok || len(id) > maxCursor {
		return nil, false
	}
	at = make(map[string]position)
	for one := range strings.SplitSeq(text, ",") {
		fields := strings.Split(one, ":")
		if len(fields) != 3 {
			return nil, false
		}
		raw, err := base64.RawURLEncoding.DecodeString(fields[2])
		if err != nil || strings.ContainsAny(string(raw), "\r\n\x00") {
			return nil, false
		}
		at[fields[0]] = position{fields[1], string(raw)}
	}
	return at, true
}
