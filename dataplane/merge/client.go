package merge

import (
	"net/http"
	"strings"

	"github.com/leasehold/leasehold/dataplane/credential"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

// maxClientInfo bounds what is kept of a client's clientInfo.
const maxClientInfo = 4 << 10

// clientOf reads the params of initialize. What is kept aliases nothing.
func clientOf(params []byte) (session.Client, error) {
	p, err := mcp.ParseInitializeParams(params)
	if err != nil {
		return session.Client{}, err
	}
	c := session.Client{Version: strings.Clone(p.ProtocolVersion), Capabilities: append([]byte(nil), p.Capabilities...)}
	info, _ := mcp.Lookup(params, "clientInfo")
	if len(info) > maxClientInfo {
		info = append(mcp.AppendQuoted([]byte(`{"name":`), clip(p.ClientName, 256)), `,"version":`...)
		info = append(mcp.AppendQuoted(info, clip(p.ClientVersion, 256)), '}')
	}
	c.Info = append([]byte(nil), info...)
	return c, nil
}

// initialize returns the request that opens an upstream session for a client.
func initialize(c *session.Client, id string) []byte {
	body := append([]byte(`{"jsonrpc":"2.0","id":`), id...)
	body = mcp.AppendQuoted(append(body, `,"method":"initialize","params":{"protocolVersion":`...), c.Version)
	body = append(append(body, `,"capabilities":`...), orEmpty(c.Capabilities)...)
	if len(c.Info) > 0 {
		body = append(append(body, `,"clientInfo":`...), c.Info...)
	}
	return append(body, "}}"...)
}

func orEmpty(object []byte) []byte {
	if len(object) == 0 {
		return []byte("{}")
	}
	return object
}

// versionFor returns the protocol version of a client's session: the one that it asked
// for, or the newest that has sessions.
func versionFor(c *session.Client) string {
	if mcp.IsStateful(c.Version) {
		return c.Version
	}
	return mcp.StatefulVersions()[0]
}

// clip bounds text.
func clip(s string, most int) string { return strings.ToValidUTF8(s[:min(len(s), most)], "") }

// callerFields returns the fields of a request that the definition of a part may want
// passed on; nil without any.
func callerFields(h http.Header) (fields http.Header) {
	for name, values := range h {
		if strings.HasPrefix(name, credential.CallerField("")) {
			if fields == nil {
				fields = make(http.Header, 1)
			}
			fields[name] = values
		}
	}
	return fields
}
