package rpc

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
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

func (c cursor) token() string {
	text, err := json.Marshal(c)
	if err != nil {
		panic(err) // three strings
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

// after returns where the page that token asks for begins; empty for the first.
func (c cursor) after(token string, valid func(after string) bool) (string, error) {
	if token == "" {
		return "", nil
	}
	bad := invalid("page_token", fmt.Sprintf("must be a next_page_token of the same request; these %d bytes are not", len(token)))
	if len(token) > maxTokenBytes {
		return "", bad
	}
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil {
		return "", bad
	}
	var got cursor
	if err := json.Unmarshal(text, &got); err != nil {
		return "", bad
	}
	if got.Kind != c.Kind || got.Scope != c.Scope || !valid(got.After) {
		return "", bad
	}
	return got.After, nil
}

func pageSize(asked int32) (int, error) {
	switch {
	case asked < 0:
		return 0, invalid("page_size", fmt.Sprintf("must be at least 0; is %d", asked))
	case asked == 0:
		return defaultPageSize, nil
	}
	return min(int(asked), maxPageSize), nil
}
