// Package gateway knows what a valid gateway is: names, defaults, bounds, how an
// update mask is applied, what is shown of a secret, and the etag. Nothing here
// does I/O, and every function is safe to call from many goroutines.
package gateway

import (
	"errors"
	"strconv"
	"strings"
)

// Collection is the first part of a gateway's name.
const Collection = "gateways/"

// MaxIDLength is the most characters that an id has.
const MaxIDLength = 63

var (
	// ErrNotFound says that there is no such gateway.
	ErrNotFound = errors.New("no such gateway")
	// ErrExists says that the gateway is there already.
	ErrExists = errors.New("gateway exists")
	// ErrETagMismatch says that the gateway has changed since the etag was read.
	ErrETagMismatch = errors.New("gateway has changed: etag does not match")
	// ErrLocked says that the stored secrets of the gateway cannot be opened.
	ErrLocked = errors.New("sealed values of the gateway cannot be opened: give the control plane the root key, or all of them anew")
)

// Name returns the resource name of the gateway with this id.
func Name(id string) string { return Collection + id }

// ParseName returns the id in a resource name, and whether name is well formed.
func ParseName(name string) (id string, ok bool) {
	id, ok = strings.CutPrefix(name, Collection)
	if !ok || !ValidID(id) {
		return "", false
	}
	return id, true
}

// ValidID reports whether id is 1 to 63 characters of a-z, 0-9 and -, starting
// with a letter and not ending with -.
func ValidID(id string) bool {
	if id == "" || len(id) > MaxIDLength || id[len(id)-1] == '-' {
		return false
	}
	for i := range len(id) {
		if !validIDByte(id[i], i == 0) {
			return false
		}
	}
	return true
}

func validIDByte(c byte, first bool) bool {
	switch {
	case c >= 'a' && c <= 'z':
		return true
	case first:
		return false
	}
	return c >= '0' && c <= '9' || c == '-'
}

// ETag returns the guard for edits of a definition stored at revision. It never
// repeats, because revisions do not.
func ETag(revision int64) string { return "r" + strconv.FormatInt(revision, 36) }
