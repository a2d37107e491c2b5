// Package canary finds values where they must not be. A test gives each secret a
// value of its own, and looks for all of them, in every form that text takes on its
// way, in whatever a program leaves behind. What is found is named, never shown.
package canary

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// MinBytes is how long a value is at least: the pieces of a shorter one are anywhere.
const MinBytes = 12

// head is how many bytes of a spelling lead to it.
const head = 8

// New returns a value that is nowhere yet. Every credential may have its characters.
func New() string { return "canary" + strings.ToLower(rand.Text()) }

// Set is values by the names of what they are.
type Set struct {
	starts [1 << 16]bool // the first two bytes of a spelling
	heads  map[[head]byte][]spelled
}

// spelled is a spelling of a value.
type spelled struct {
	text []byte
	name string
}

// Add adds a value of at least MinBytes. Several may have one name.
func (s *Set) Add(name, value string) {
	if s.heads == nil {
		s.heads = map[[head]byte][]spelled{}
	}
	for _, text := range Spellings(value) {
		key := [head]byte([]byte(text))
		s.starts[uint16(key[0])<<8|uint16(key[1])] = true
		s.heads[key] = append(s.heads[key], spelled{[]byte(text), name})
	}
}

// Find returns the names of the values that are in data, however they are spelled, in
// order.
func (s *Set) Find(data []byte) []string {
	var found []string
	for i := 0; i+head <= len(data); i++ {
		if !s.starts[uint16(data[i])<<8|uint16(data[i+1])] {
			continue
		}
		for _, each := range s.heads[[head]byte(data[i:])] {
			if bytes.HasPrefix(data[i:], each.text) && !slices.Contains(found, each.name) {
				found = append(found, each.name)
			}
		}
	}
	slices.Sort(found)
	return found
}

// Spellings are how a value of at least MinBytes may be found in bytes: as it is,
// within base64 that begins anywhere, in hexadecimal or decimal digits, and escaped for
// URLs, for JSON and by Go.
func Spellings(value string) []string {
	if len(value) < MinBytes {
		panic(fmt.Sprintf("canary: a value of %d bytes, want at least %d", len(value), MinBytes))
	}
	digits := hex.EncodeToString([]byte(value))
	list := []string{
		value, digits, strings.ToUpper(digits), strings.Trim(fmt.Sprint([]byte(value)), "[]"),
		url.QueryEscape(value), url.PathEscape(value), inner(strconv.Quote(value)),
	}
	if text, err := json.Marshal(value); err == nil {
		list = append(list, inner(string(text)))
	}
	for shift := range 3 {
		for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			list = append(list, within(encoding, value, shift))
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// within is what base64 always has of a value that begins shift bytes after a multiple
// of three: without the characters that its neighbours have a part in.
func within(encoding *base64.Encoding, value string, shift int) string {
	before := strings.Repeat("x", shift) + value
	text := encoding.EncodeToString([]byte(before[:len(before)/3*3]))
	if shift > 0 {
		text = text[4:]
	}
	return text
}

// inner is a quoted text without its quotes.
func inner(quoted string) string { return quoted[1 : len(quoted)-1] }
