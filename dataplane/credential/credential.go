package credential

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Value is a secret, or where the worker finds it. Exactly one of Inline, File and
// Env says so.
type Value struct {
	Inline Secret
	// Fingerprint changes whenever Inline does, and says nothing of it. Empty
	// without Inline.
	Fingerprint string
	// File is a path below the worker's directory of credentials.
	File string
	// Env is the name of an environment variable.
	Env string
}

// Credential is what an upstream is shown with each request: header fields, and at
// most one of the others.
type Credential struct {
	Headers []Header
	Bearer  *Value
	Basic   *Basic
	Key     *Key
	OAuth   *OAuth
	// CallerHeader is the field of the client's own request that is passed on.
	CallerHeader string
}

// Header is a header field.
type Header struct {
	Name  string
	Value Value
}

// Basic is a name and a password.
type Basic struct {
	Username string
	Password Value
}

// Key is an API key in a header field or in a parameter of the URL's query, as one
// of the names says.
type Key struct {
	Header, Query string
	Value         Value
}

// OAuth says where access tokens come from.
type OAuth struct {
	TokenURL     *url.URL
	ClientID     string
	ClientSecret Value
	Scopes       []string
	Parameters   map[string]string
	InBody       bool // the endpoint is shown id and secret in the body of the request
	TLS          *TLS // nil for the defaults
}

// CallerField is the header field under which the value of a client's own field
// travels within workers and between them, so that it never goes out by being
// there: only under the name that the upstream's definition has.
func CallerField(name string) string { return InternalPrefix + "Caller-" + name }

// InternalPrefix begins the names of header fields that never leave the workers.
const InternalPrefix = "X-Leasehold-"

// errUnknown says that a definition is of a newer version. To leave out what is not
// understood would be to connect otherwise than the operator wants.
var errUnknown = errors.New("has fields that this worker does not know")

func compileValue(s *leaseholdv1.Secret) (Value, error) {
	switch source := s.GetSource().(type) {
	case *leaseholdv1.Secret_Value:
		if s.GetFingerprint() == "" {
			return Value{}, errors.New("value has no fingerprint")
		}
		return Value{Inline: NewSecret(source.Value), Fingerprint: s.GetFingerprint()}, nil
	case *leaseholdv1.Secret_File:
		return Value{File: source.File}, nil
	case *leaseholdv1.Secret_Env:
		return Value{Env: source.Env}, nil
	}
	return Value{}, errors.New("has no value, file or env that this worker knows")
}

// Compile makes a credential of its definition; nil of none. An error is a FieldError,
// or about the whole.
func Compile(c *leaseholdv1.Credential) (*Credential, error) {
	if c == nil {
		return nil, nil
	}
	own := &Credential{}
	for i, h := range c.GetHeaders() {
		value, err := compileValue(h.GetValue())
		if err != nil {
			return nil, At(fmt.Sprintf("headers[%d].value", i), err)
		}
		own.Headers = append(own.Headers, Header{http.CanonicalHeaderKey(h.GetName()), value})
	}
	switch {
	case len(c.ProtoReflect().GetUnknown()) > 0:
		return nil, errUnknown
	case c.GetKind() == nil:
		return own, nil
	}
	if err := own.compileKind(c); err != nil {
		return nil, err
	}
	return own, nil
}

func (own *Credential) compileKind(c *leaseholdv1.Credential) error {
	switch kind := c.GetKind().(type) {
	case *leaseholdv1.Credential_Bearer:
		value, err := compileValue(kind.Bearer)
		if err != nil {
			return At("bearer", err)
		}
		own.Bearer = &value
	case *leaseholdv1.Credential_Basic:
		password, err := compileValue(kind.Basic.GetPassword())
		if err != nil {
			return At("basic.password", err)
		}
		own.Basic = &Basic{kind.Basic.GetUsername(), password}
	case *leaseholdv1.Credential_ApiKey:
		value, err := compileValue(kind.ApiKey.GetValue())
		if err != nil {
			return At("api_key.value", err)
		}
		own.Key = &Key{http.CanonicalHeaderKey(kind.ApiKey.GetHeader()), kind.ApiKey.GetQuery(), value}
		if own.Key.Header == "" && own.Key.Query == "" {
			return At("api_key", errUnknown)
		}
	case *leaseholdv1.Credential_Oauth:
		var err error
		if own.OAuth, err = compileOAuth(kind.Oauth); err != nil {
			return At("oauth", err)
		}
	case *leaseholdv1.Credential_CallerHeader:
		own.CallerHeader = http.CanonicalHeaderKey(kind.CallerHeader)
	}
	return nil
}

func compileOAuth(o *leaseholdv1.OAuthClientCredentials) (*OAuth, error) {
	if len(o.ProtoReflect().GetUnknown()) > 0 {
		return nil, errUnknown
	}
	endpoint, err := url.Parse(o.GetTokenUrl())
	if err != nil || endpoint.Host == "" || endpoint.Scheme != "http" && endpoint.Scheme != "https" {
		return nil, At("token_url", fmt.Errorf("not an absolute http or https URL (%d bytes)", len(o.GetTokenUrl())))
	}
	secret, err := compileValue(o.GetClientSecret())
	if err != nil {
		return nil, At("client_secret", err)
	}
	tls, err := CompileTLS(o.GetTls())
	if err != nil {
		return nil, At("tls", err)
	}
	own := &OAuth{TokenURL: endpoint, ClientID: o.GetClientId(), ClientSecret: secret, Scopes: o.GetScopes(), Parameters: o.GetParameters(), TLS: tls}
	switch o.GetClientAuthentication() {
	case leaseholdv1.ClientAuthentication_CLIENT_AUTHENTICATION_UNSPECIFIED, leaseholdv1.ClientAuthentication_CLIENT_AUTHENTICATION_BASIC:
	case leaseholdv1.ClientAuthentication_CLIENT_AUTHENTICATION_BODY:
		own.InBody = true
	default:
		return nil, At("client_authentication", fmt.Errorf("%d is not known", o.GetClientAuthentication()))
	}
	return own, nil
}

// AppendSources appends what makes this credential another one than another: where
// its secrets are, and of a value in the definition its fingerprint, never the value.
// What a file or a variable holds may change under the same sources.
func (c *Credential) AppendSources(b []byte) []byte {
	if c == nil {
		return b
	}
	b = append(b, "\x00credential"...)
	for _, h := range c.Headers {
		b = h.Value.appendSource(fmt.Appendf(b, "\x00header %q", h.Name))
	}
	if c.Bearer != nil {
		b = c.Bearer.appendSource(append(b, "\x00bearer"...))
	}
	if c.Basic != nil {
		b = c.Basic.Password.appendSource(fmt.Appendf(b, "\x00basic %q", c.Basic.Username))
	}
	if c.Key != nil {
		b = c.Key.Value.appendSource(fmt.Appendf(b, "\x00key %q %q", c.Key.Header, c.Key.Query))
	}
	if o := c.OAuth; o != nil {
		b = o.ClientSecret.appendSource(fmt.Appendf(b, "\x00oauth %q %q %q %t", o.TokenURL.String(), o.ClientID, o.Scopes, o.InBody))
		for _, name := range slices.Sorted(maps.Keys(o.Parameters)) {
			b = fmt.Appendf(b, "\x00%q=%q", name, o.Parameters[name])
		}
		b = o.TLS.AppendSources(b)
	}
	if c.CallerHeader != "" {
		b = fmt.Appendf(b, "\x00caller %q", c.CallerHeader)
	}
	return b
}

func (v Value) appendSource(b []byte) []byte {
	return fmt.Appendf(b, " %q %q %q", v.Fingerprint, v.File, v.Env)
}
