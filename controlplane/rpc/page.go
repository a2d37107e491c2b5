package rpc

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"strings"
)

const (
	defaultPageSize = 100
	maxPageSize     = 1000
	// maxTokenBytes bounds what is decoded; ours are far shorter.
	maxTokenBytes = 1024
	// maxPageBytes keeps a page below what gRPC clients take by default.
	maxPageBytes = 2 << 20
)

// cursor is what a page token says: where the next page begins, and of which
// request. A token of another request is refused rather than misread.
type cursor struct {
	Kind  string `json:"k"`
	Scope string `json:"s,omitempty"`
	After string `json:"a"`
}

// newCursor is for pages of what the scope says, such as a filter.
func newCursor(kind string, scope ...string) cursor {
	if strings.Join(scope, "") == "" {
		return cursor{Kind: kind}
	}
	sum := sha256.Sum256([]byte(strings.Join(scope, "\x00")))
	return cursor{Kind: kind, Scope: base64.RawURLEncoding.EncodeToString(sum[:12])}
}

func (c cursor) token() string {
	text, err := json.Marshal(c)
	if err != nil {
		panic(err) // three strings
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// after returns where the page that token asks for begins; empty for the first.
func (c cursor) after(check *check, token string, valid func(after string) bool) string {
	if token == "" {
		return ""
	}
	got, ok := parseToken(token)
	if !ok || got.Kind != c.Kind || got.Scope != c.Scope || !valid(got.After) {
		check.add("page_token", "must be a next_page_token of the same request, filter included; these %d bytes are not", len(token))
		return ""
	}
	return got.After
}

func parseToken(token string) (c cursor, ok bool) {
	if len(token) > maxTokenBytes {
		return c, false
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return c, false
	}
	return c, json.Unmarshal(text, &c) == nil
}

func pageSize(check *check, asked int32) int {
	switch {
	case asked < 0:
		check.add("page_size", "must be at least 0; is %d", asked)
	case asked == 0:
		return defaultPageSize
	}
	return min(int(asked), maxPageSize)
}
