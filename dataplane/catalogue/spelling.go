package catalogue

import (
	"path"
	"strings"
)

// plain returns a URI in the spelling that a server may take it for: white space that
// URIs do not have is left out, backslashes are slashes, percent-encoded bytes are
// the bytes, scheme and host are in lower case, and the path has no dot segments.
// Filters hold for that as well: file:///public/../secret is not below
// file:///public/ for a server that opens it.
func plain(uri string) string {
	uri = unescape(strings.TrimSpace(uri))
	uri = strings.NewReplacer("\t", "", "\n", "", "\r", "", `\`, "/").Replace(uri)
	head, rest := "", uri
	if scheme, after, ok := strings.Cut(uri, ":"); ok && !strings.Contains(scheme, "/") {
		head, rest = strings.ToLower(scheme)+":", after
	}
	if after, ok := strings.CutPrefix(rest, "//"); ok {
		end := strings.IndexAny(after, "/?#")
		if end < 0 {
			end = len(after)
		}
		head, rest = head+"//"+strings.ToLower(after[:end]), after[end:]
	}
	tail := ""
	if i := strings.IndexAny(rest, "?#"); i >= 0 {
		rest, tail = rest[:i], rest[i:]
	}
	return head + clean(rest) + tail
}

func clean(p string) string {
	if p == "" {
		return ""
	}
	cleaned := path.Clean(p)
	if cleaned != "/" && (strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || strings.HasSuffix(p, "/..")) {
		cleaned += "/"
	}
	return cleaned
}

// unescape decodes what is percent-encoded, and leaves what is not well-formed.
func unescape(s string) string {
	if !strings.Contains(s, "%") {
		return s
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]) {
			out = append(out, fromHex(s[i+1])<<4|fromHex(s[i+2]))
			i += 2
			continue
		}
		out = append(out, s[i])
	}
	return string(out)
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func fromHex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}
