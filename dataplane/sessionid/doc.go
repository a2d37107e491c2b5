// Package sessionid makes and opens the ids of client sessions, and seals what
// a session's record keeps of its upstream sessions.
//
// A session id is a sealed hint: it names the worker that opened the session, so
// that any worker can forward a request without a look-up, and it cannot be
// made, changed, or used on another gateway or by another principal without a
// key of the ring. It is no proof of who the caller is: that is checked on each
// request.
//
//	lh1. base64url( key id (4) | nonce (12) | AES-256-GCM( hint ) | tag (16) )
//	hint: incarnation int64 | created unix ms int64 | 16 random bytes | worker
//
// Numbers are big-endian; the additional data is "lh1" NUL gateway NUL principal.
//
// Whoever may read a store or a log must not be able to use a session, so those
// get the id's [Digest].
package sessionid
