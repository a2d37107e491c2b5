package sessionid

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
)

// Digest names a session without giving it away: the first 16 bytes of the
// SHA-256 of its id.
type Digest [16]byte

// DigestOf returns the digest of a session id.
func DigestOf(id string) Digest {
	var buf [maxLen]byte // spares the allocation for ids that can be ours
	sum := sha256.Sum256(append(buf[:0], id...))
	return Digest(sum[:])
}

// String returns the digest as 32 lower-case hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// ParseDigest reads what String returns, and nothing else: two texts never
// stand for one digest.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	if len(s) == hex.EncodedLen(len(d)) {
		if _, err := hex.Decode(d[:], []byte(s)); err == nil && d.String() == s {
			return d, nil
		}
	}
	return Digest{}, errors.New("session digest is not 32 lower-case hexadecimal digits")
}
