package session

import (
	"strings"

	"github.com/leasehold/leasehold/controlplane/gateway"
)

// Lengths of the ids that name sessions and workers, in hexadecimal digits.
const (
	DigestLength   = 32
	WorkerIDLength = 16
)

const (
	collection = "/sessions/"
	workers    = "workers/"
)

// Key names one session.
type Key struct {
	// Gateway is the gateway's id.
	Gateway string
	// Digest is the digest of the session's id.
	Digest string
}

// Name returns the session's resource name.
func (k Key) Name() string { return gateway.Name(k.Gateway) + collection + k.Digest }

// Valid reports whether both parts are well formed.
func (k Key) Valid() bool { return gateway.ValidID(k.Gateway) && ValidDigest(k.Digest) }

// ParseName returns the key in a session's resource name, and whether name is
// well formed.
func ParseName(name string) (Key, bool) {
	parent, digest, ok := strings.Cut(name, collection)
	if !ok {
		return Key{}, false
	}
	id, ok := gateway.ParseName(parent)
	k := Key{Gateway: id, Digest: digest}
	return k, ok && k.Valid()
}

// ValidDigest reports whether s is 32 lower-case hexadecimal digits.
func ValidDigest(s string) bool { return hexadecimal(s, DigestLength) }

// ValidWorkerID reports whether s is 16 lower-case hexadecimal digits.
func ValidWorkerID(s string) bool { return hexadecimal(s, WorkerIDLength) }

// WorkerName returns the resource name of the worker with this id.
func WorkerName(id string) string { return workers + id }

// ParseWorkerName returns the id in a worker's resource name, and whether name
// is well formed.
func ParseWorkerName(name string) (id string, ok bool) {
	id, ok = strings.CutPrefix(name, workers)
	return id, ok && ValidWorkerID(id)
}

func hexadecimal(s string, length int) bool {
	if len(s) != length {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
