package keyring

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

const (
	rootKeyBytes = 32
	rootIDBytes  = 8
	// rootIDLabel is what a root key's id is made with. Nothing else is.
	rootIDLabel = "leasehold root key id"
	// leastVariety is how many different bytes a root key has at least: one that was
	// drawn at random has fewer once in some 10^15 times, one that a person thought of
	// often.
	leastVariety = 16
)

// RootKey wraps data keys and the key ring. It says [redacted] however it is printed;
// its bytes are behind a pointer since no method helps inside of an unexported field,
// and a string since the package fmt follows no pointer to one.
type RootKey struct {
	secret *string
	id     string
}

const redacted = "[redacted]"

// String returns "[redacted]".
func (RootKey) String() string { return redacted }

// GoString returns "[redacted]".
func (RootKey) GoString() string { return redacted }

// Format writes "[redacted]" for every verb and flag.
func (RootKey) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// MarshalText returns "[redacted]".
func (RootKey) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue returns "[redacted]".
func (RootKey) LogValue() slog.Value { return slog.StringValue(redacted) }

// NewRootKey returns a fresh key.
func NewRootKey() RootKey {
	secret := make([]byte, rootKeyBytes)
	_, _ = rand.Read(secret) // never fails
	return rootKey(secret)
}

func rootKey(secret []byte) RootKey {
	text, mac := string(secret), hmac.New(sha256.New, secret)
	mac.Write([]byte(rootIDLabel))
	return RootKey{secret: &text, id: string(mac.Sum(nil)[:rootIDBytes])}
}

// ParseRootKey returns the key of 64 hexadecimal digits. It refuses what nobody draws
// at random: one byte again and again, a count, a short pattern. Errors say nothing of
// the digits.
func ParseRootKey(digits []byte) (RootKey, error) {
	if len(digits) != hex.EncodedLen(rootKeyBytes) {
		return RootKey{}, fmt.Errorf("must be %d hexadecimal digits; is %d bytes", hex.EncodedLen(rootKeyBytes), len(digits))
	}
	secret := make([]byte, rootKeyBytes)
	if _, err := hex.Decode(secret, digits); err != nil {
		return RootKey{}, fmt.Errorf("must be %d hexadecimal digits; some of its bytes are none", hex.EncodedLen(rootKeyBytes))
	}
	if guessable(secret) {
		return RootKey{}, errors.New("is a known key, or one that can be guessed: make one with `leasehold keys generate`")
	}
	return rootKey(secret), nil
}

func guessable(key []byte) bool {
	different, counts := map[byte]bool{key[0]: true}, true
	for i := 1; i < len(key); i++ {
		different[key[i]] = true
		counts = counts && key[i]-key[i-1] == key[1]-key[0]
	}
	return len(different) < leastVariety || counts
}

// ID names the key without saying anything of it: 16 hexadecimal digits.
func (k RootKey) ID() string { return hex.EncodeToString([]byte(k.id)) }

func (k RootKey) bytes() []byte { return []byte(*k.secret) }

// Reveal returns the key's digits. Whoever calls it sees to it that they go to a file
// of root keys, and nowhere else.
func (k RootKey) Reveal() string { return hex.EncodeToString(k.bytes()) }

// ParseRootKeys returns the keys of a file's content: one a line, the first one
// first. Lines without anything in them do not count.
func ParseRootKeys(content []byte) (RootKeys, error) {
	var keys []RootKey
	number := 0
	for line := range bytes.Lines(content) {
		number++
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if len(keys) == maxRootKeys {
			return RootKeys{}, fmt.Errorf("has more than %d keys", maxRootKeys)
		}
		key, err := ParseRootKey(line)
		if err != nil {
			return RootKeys{}, fmt.Errorf("line %d %w", number, err)
		}
		for i, other := range keys {
			if *other.secret == *key.secret {
				return RootKeys{}, fmt.Errorf("line %d has key %d again", number, i+1)
			}
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return RootKeys{}, errors.New("has no key")
	}
	return RootKeys{keys}, nil
}
