package trust

import (
	"net"

	"google.golang.org/grpc/credentials"
)

// handshakeRecord begins every TLS connection; a plaintext one of HTTP/2 begins
// with a letter.
const handshakeRecord = 0x16

// ServerForLocals is Server for a listener that is known to be on loopback, and
// takes callers without TLS too: as an operator of the name local, as whom anyone
// on this machine may act. It is for `leasehold dev`.
func (f *Files) ServerForLocals() credentials.TransportCredentials {
	return &locals{server{files: f}}
}

// locals is the credentials of a listener that takes plaintext too.
type locals struct{ server }

// Clone implements credentials.TransportCredentials.
func (l *locals) Clone() credentials.TransportCredentials { return l }

// ServerHandshake implements credentials.TransportCredentials.
func (l *locals) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	begun := &peeked{Conn: raw, head: make([]byte, 1)}
	if _, err := raw.Read(begun.head); err != nil {
		l.files.refuse(raw.RemoteAddr(), err)
		return nil, nil, err
	}
	if from, ok := raw.RemoteAddr().(*net.TCPAddr); begun.head[0] == handshakeRecord || !ok || !from.IP.IsLoopback() {
		return l.server.ServerHandshake(begun)
	}
	return begun, Peer{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity},
		identity:       Identity{Role: Operator, Name: "local"},
	}, nil
}

// peeked is a connection whose first bytes were read already.
type peeked struct {
	net.Conn
	head []byte
}

// Read implements net.Conn.
func (p *peeked) Read(b []byte) (int, error) {
	if len(p.head) == 0 || len(b) == 0 {
		return p.Conn.Read(b)
	}
	n := copy(b, p.head)
	p.head = p.head[n:]
	return n, nil
}
