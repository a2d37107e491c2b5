package material

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"

	"github.com/leasehold/leasehold/dataplane/credential"
	"github.com/leasehold/leasehold/dataplane/mcp"
)

// Carried is what a request goes out with.
type Carried struct {
	// Header is the request's, with what the upstream is shown.
	Header http.Header
	// URL is the request's, with what the upstream is shown.
	URL   *url.URL
	token *token // that was used, or nil
}

// Carry returns what a request goes out with: nothing in header or target takes the
// place of what the upstream is shown, and neither of them is changed. own says that
// the request is the worker's own, and has no caller. The error is a *Missing, or
// the context's.
func (c *Connection) Carry(ctx context.Context, header http.Header, target *url.URL, own bool) (Carried, error) {
	out := Carried{Header: header, URL: target}
	if c == nil || c.credential == nil {
		return out, nil
	}
	out.Header = maps.Clone(header)
	if out.Header == nil {
		out.Header = http.Header{}
	}
	for _, h := range c.credential.Headers {
		if err := c.setValue(&out, h.Name, h.Value); err != nil {
			return Carried{}, err
		}
	}
	if err := c.carryKind(ctx, &out, own); err != nil {
		return Carried{}, err
	}
	return out, nil
}

func (c *Connection) carryKind(ctx context.Context, out *Carried, own bool) error {
	switch d := c.credential; {
	case d.Bearer != nil:
		secret, err := c.store.secret(*d.Bearer)
		if err != nil {
			return err
		}
		return set(out, "Authorization", "Bearer ", secret)
	case d.Basic != nil:
		secret, err := c.store.secret(d.Basic.Password)
		if err != nil {
			return err
		}
		pair := base64.StdEncoding.EncodeToString([]byte(d.Basic.Username + ":" + secret.Reveal()))
		return set(out, "Authorization", "Basic ", credential.NewSecret(pair))
	case d.Key != nil && d.Key.Header != "":
		return c.setValue(out, d.Key.Header, d.Key.Value)
	case d.Key != nil:
		secret, err := c.store.secret(d.Key.Value)
		if err != nil {
			return err
		}
		out.URL = withParameter(out.URL, d.Key.Query, secret)
	case c.tokens != nil:
		token, err := c.tokens.get(ctx)
		if err != nil {
			return err
		}
		out.token = token
		return set(out, "Authorization", "Bearer ", token.value)
	case d.CallerHeader != "":
		c.passCaller(out, own)
	}
	return nil
}

func (c *Connection) setValue(out *Carried, name string, value credential.Value) error {
	secret, err := c.store.secret(value)
	if err != nil {
		return err
	}
	return set(out, name, "", secret)
}

// set puts a secret into a header field. One from a file or a variable was not seen
// by anybody yet.
func set(out *Carried, name, scheme string, secret credential.Secret) error {
	text := secret.Reveal()
	if strings.ContainsFunc(text, func(r rune) bool { return r != '\t' && (r < ' ' || r > '~') }) || strings.TrimSpace(text) != text {
		return &Missing{fmt.Errorf("credential for the header field %s: its %d bytes are not visible ASCII characters, with spaces and tabs only between them", name, len(text))}
	}
	out.Header[name] = []string{scheme + text}
	return nil
}

// withParameter returns target with a parameter, in the place of any of that name.
func withParameter(target *url.URL, name string, value credential.Secret) *url.URL {
	own := *target
	var kept []string
	for pair := range strings.SplitSeq(target.RawQuery, "&") {
		key, _, _ := strings.Cut(pair, "=")
		if decoded, err := url.QueryUnescape(key); pair != "" && (err != nil || decoded != name) {
			kept = append(kept, pair)
		}
	}
	own.RawQuery = strings.Join(append(kept, url.QueryEscape(name)+"="+url.QueryEscape(value.Reveal())), "&")
	return &own
}

// passCaller passes on the field of the caller, or in a request of the worker's own
// for a session what the session's newest request had.
func (c *Connection) passCaller(out *Carried, own bool) {
	name := c.credential.CallerHeader
	values := out.Header[credential.CallerField(name)]
	if own && values == nil {
		if id := out.Header.Get(mcp.HeaderSessionID); id != "" {
			values, _ = c.store.callers.Get(c.callerKey(id))
		}
	}
	delete(out.Header, name)
	if len(values) == 1 {
		out.Header[name] = values
	}
}

func (c *Connection) callerKey(session string) string { return string(c.fingerprint[:]) + session }

// Note remembers the caller's field for the session that a request was for, or that
// its answer opened, and forgets it with the session. own is as for Carry.
func (c *Connection) Note(method string, request, answer http.Header, own bool) {
	if c == nil || c.credential == nil || c.credential.CallerHeader == "" {
		return
	}
	id := request.Get(mcp.HeaderSessionID)
	if id == "" {
		id = answer.Get(mcp.HeaderSessionID)
	}
	values := request[credential.CallerField(c.credential.CallerHeader)]
	switch {
	case id == "":
	case method == http.MethodDelete:
		c.store.callers.Remove(c.callerKey(id))
	case values != nil:
		c.store.callers.Add(c.callerKey(id), values)
	case !own:
		c.store.callers.Remove(c.callerKey(id))
	}
}

// Forget forgets the caller's field of a session that goes on elsewhere.
func (c *Connection) Forget(session string) {
	if c != nil && c.credential != nil && c.credential.CallerHeader != "" {
		c.store.callers.Remove(c.callerKey(session))
	}
}

// Again is told with which status the upstream has answered a request that went out
// with carried, and reports whether another try may do better: its token was refused,
// so the request was not carried out, and there is, or will be, another token.
func (c *Connection) Again(carried Carried, status int) bool {
	switch {
	case carried.token == nil:
		return false
	case status != http.StatusUnauthorized:
		carried.token.proven.Store(true)
		return false
	}
	return c.tokens.reject(carried.token)
}
