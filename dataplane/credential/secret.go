// Package credential knows what an upstream is shown, and how it is spoken TLS to:
// a definition's part on that, compiled. It reads no files and asks nobody; where a
// secret is found is the business of package material.
package credential

import (
	"fmt"
	"io"
	"log/slog"
)

// Secret is text that says [redacted] however it is printed. It is behind a pointer
// since no method helps inside of an unexported field.
type Secret struct{ text *string }

const redacted = "[redacted]"

// NewSecret returns text as a secret.
func NewSecret(text string) Secret { return Secret{&text} }

// Reveal returns the text. Whoever calls it sees to it that it goes to an upstream
// or a token endpoint, and nowhere else.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// String returns "[redacted]".
func (Secret) String() string { return redacted }

// GoString returns "[redacted]".
func (Secret) GoString() string { return redacted }

// Format writes "[redacted]" for every verb and flag.
func (Secret) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// MarshalText returns "[redacted]".
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue returns "[redacted]".
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }
