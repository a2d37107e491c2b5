package mcp

import "bytes"

// AppendPrefixed appends the block with prefix in front of the value of each id
// field that has one. An empty id stays empty: it resets the client's last one.
// prefix has no line break and no NUL.
func (e Event) AppendPrefixed(dst []byte, prefix string) []byte {
	done := 0
	for l := e.lines(); l.next(); {
		if l.name != fieldID || len(l.value) == 0 {
			continue
		}
		at := cap(e.Raw) - cap(l.value) // both end where the array does
		dst = append(dst, e.Raw[done:at]...)
		dst = append(dst, prefix...)
		done = at
	}
	return append(dst, e.Raw[done:]...)
}

// AppendIdentified appends the block, which has no id field, with an id.
func (e Event) AppendIdentified(dst []byte, id []byte) []byte {
	raw := e.Raw
	if e.bom {
		dst = append(dst, byteOrderMark...)
		raw = raw[len(byteOrderMark):]
	}
	if bytes.HasPrefix(raw, []byte("\n")) { // the rest of the line end before the block
		dst = append(dst, '\n')
		raw = raw[1:]
	}
	return append(AppendID(dst, id), raw...)
}

// AppendID appends an id field.
func AppendID(dst, id []byte) []byte {
	dst = append(dst, "id: "...)
	dst = append(dst, id...)
	return append(dst, '\n')
}

// AppendPriming appends a block with an id and empty data, which carries no
// message: from it on a client can ask for what it missed.
func AppendPriming(dst, id []byte) []byte {
	return append(AppendID(dst, id), "data: \n\n"...)
}
