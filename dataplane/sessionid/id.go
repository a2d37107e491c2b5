package sessionid

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// MaxLen is how long a session id can be. Longer ones are not ours.
const MaxLen = 512

const (
	maxLen    = MaxLen
	prefix    = "lh1."
	keyIDLen  = 4
	randomLen = 16
	fixedLen  = 8 + 8 + randomLen // of the hint, in front of the worker
	maxWorker = 128
	overhead  = 12 + 16 // nonce and tag
	minSealed = keyIDLen + overhead + fixedLen + 1
	maxSealed = keyIDLen + overhead + fixedLen + maxWorker
)

// encoding has one text for one sequence of bytes; only line breaks, which it
// skips, need a check of their own.
var encoding = base64.RawURLEncoding.Strict()

// Hint is what a session id tells about its session. It is a hint: the session
// may have moved since.
type Hint struct {
	Worker      string    // who opened the session: 1 to 128 bytes
	Incarnation int64     // of that worker
	Created     time.Time // to the millisecond
}

// Mint returns a new session id for the principal on the gateway. No two calls
// return the same. It fails if the hint names no worker, or one whose name is
// too long, or if the gateway's name has a NUL.
func (r *Ring) Mint(h Hint, gateway, principal string) (string, error) {
	if n := len(h.Worker); n == 0 || n > maxWorker {
		return "", fmt.Errorf("mint session id: worker has %d bytes, 1 to %d are allowed", n, maxWorker)
	}
	if strings.IndexByte(gateway, 0) >= 0 {
		return "", errors.New("mint session id: NUL in the gateway's name")
	}
	plain := make([]byte, 0, fixedLen+maxWorker)
	plain = binary.BigEndian.AppendUint64(plain, uint64(h.Incarnation))
	plain = binary.BigEndian.AppendUint64(plain, uint64(h.Created.UnixMilli()))
	plain = plain[:fixedLen]
	rand.Read(plain[fixedLen-randomLen:]) // never fails
	plain = append(plain, h.Worker...)

	k := &r.keys[0]
	sealed := append(make([]byte, 0, maxSealed), k.id[:]...)
	sealed = k.sessions.Seal(sealed, nil, plain, appendBinding(nil, gateway, principal))
	return prefix + encoding.EncodeToString(sealed), nil
}

// scratch is what Open needs beside its result.
type scratch struct {
	text    [maxLen]byte
	sealed  [maxSealed]byte
	plain   [maxSealed]byte
	binding []byte
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// Open returns the hint in a session id that was minted for this gateway and
// principal. Everything else is ErrInvalid, without a difference between a
// malformed, a forged and somebody else's id. An id that is well-formed but
// under a key that the ring does not have is ErrUnknownKey.
func (r *Ring) Open(id, gateway, principal string) (Hint, error) {
	text, ok := strings.CutPrefix(id, prefix)
	if !ok || len(id) > maxLen || strings.IndexByte(gateway, 0) >= 0 {
		return Hint{}, ErrInvalid
	}
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)

	sealed, ok := s.decode(text)
	if !ok {
		return Hint{}, ErrInvalid
	}
	k := r.key([keyIDLen]byte(sealed))
	if k == nil {
		return Hint{}, ErrUnknownKey
	}
	s.binding = appendBinding(s.binding[:0], gateway, principal)
	plain, err := k.sessions.Open(s.plain[:0], nil, sealed[keyIDLen:], s.binding)
	if err != nil {
		return Hint{}, ErrInvalid
	}
	return Hint{
		Incarnation: int64(binary.BigEndian.Uint64(plain)),
		Created:     time.UnixMilli(int64(binary.BigEndian.Uint64(plain[8:]))),
		Worker:      string(plain[fixedLen:]),
	}, nil
}

// KeyOf returns the id of the key that a session id is under, if it has the form of one.
func KeyOf(id string) (key [keyIDLen]byte, ok bool) {
	text, ok := strings.CutPrefix(id, prefix)
	if !ok || len(id) > maxLen {
		return key, false
	}
	s := scratches.Get().(*scratch)
	defer scratches.Put(s)
	sealed, ok := s.decode(text)
	if ok {
		copy(key[:], sealed)
	}
	return key, ok
}

// decode returns the bytes that text stands for, if it has the length of an id
// and is the one text for them.
func (s *scratch) decode(text string) ([]byte, bool) {
	n := encoding.DecodedLen(len(text))
	if n < minSealed || n > maxSealed || strings.ContainsAny(text, "\r\n") {
		return nil, false
	}
	n, err := encoding.Decode(s.sealed[:], s.text[:copy(s.text[:], text)])
	return s.sealed[:n], err == nil
}

// appendBinding appends the additional data that binds an id to a gateway and a
// principal. As the gateway has no NUL, no other pair has the same.
func appendBinding(dst []byte, gateway, principal string) []byte {
	dst = append(dst, "lh1\x00"...)
	dst = append(dst, gateway...)
	dst = append(dst, 0)
	return append(dst, principal...)
}
