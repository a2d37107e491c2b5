package gateway

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// The bounds of what a definition says of the connections to its upstreams.
const (
	MaxSecretBytes       = 8192
	MaxSecretPathBytes   = 255
	MaxSecretEnvBytes    = 128
	MaxCredentialHeaders = 16
	MaxHeaderNameBytes   = 128
	MaxQueryNameBytes    = 128
	MaxUsernameBytes     = 255
	MaxClientIDBytes     = 1024
	MaxScopes            = 32
	MaxScopeBytes        = 256
	MaxTokenParameters   = 16
	MaxParameterBytes    = 2048
	MaxAuthoritiesBytes  = 256 << 10
	MaxCertificateBytes  = 64 << 10
	MaxServerNameBytes   = 253
	MaxConcurrent        = 100_000
	MinHealthInterval    = time.Second
	MaxHealthInterval    = time.Hour
	MinHealthTimeout     = 100 * time.Millisecond
	MaxHealthTimeout     = time.Minute
	MaxHealthCount       = 100
)

// connection checks what u says of connections, never putting a secret into a
// description.
func (v *Violations) connection(field string, u *leaseholdv1.Upstream) {
	if n := u.GetMaxConcurrentRequests(); n < 0 || n > MaxConcurrent {
		v.add(field+".max_concurrent_requests", "must be 0, for no bound, or 1 to %d; is %d", MaxConcurrent, n)
	}
	if u.GetTransport() == leaseholdv1.Transport_TRANSPORT_STDIO {
		v.programConnection(field, u)
		return
	}
	target, err := url.Parse(u.GetUrl())
	if err != nil {
		target = &url.URL{} // which is another violation
	}
	v.credential(field+".credential", u.GetCredential(), target)
	if u.GetTls() != nil && target.Scheme != "https" {
		v.add(field+".tls", "is for https URLs only; the scheme has %d bytes and is another", len(target.Scheme))
	}
	v.tls(field+".tls", u.GetTls())
	v.healthCheck(field+".health_check", u.GetHealthCheck())
	if u.GetHealthCheck() != nil && u.GetCredential().GetCallerHeader() != "" {
		v.add(field+".health_check", "must be absent with credential.caller_header, as there is no caller to ask for it")
	}
}

func (v *Violations) programConnection(field string, u *leaseholdv1.Upstream) {
	const rule = "must be absent with TRANSPORT_STDIO"
	if u.GetCredential() != nil {
		v.add(field+".credential", rule)
	}
	if u.GetTls() != nil {
		v.add(field+".tls", rule)
	}
	if u.GetHealthCheck() != nil {
		v.add(field+".health_check", rule)
	}
}

func (v *Violations) credential(field string, c *leaseholdv1.Credential, target *url.URL) {
	if c == nil {
		return
	}
	if len(c.GetHeaders()) > MaxCredentialHeaders {
		v.add(field+".headers", "must have at most %d entries; has %d", MaxCredentialHeaders, len(c.GetHeaders()))
		return
	}
	used := map[string]string{}
	name := func(at, name string) {
		v.headerName(at, name)
		key := http.CanonicalHeaderKey(name)
		if first, ok := used[key]; ok {
			v.add(at, "must be another header field than that of %s", first)
		}
		used[key] = strings.TrimPrefix(at, field+".")
	}
	for i, h := range c.GetHeaders() {
		at := fmt.Sprintf("%s.headers[%d]", field, i)
		name(at+".name", h.GetName())
		v.secret(at+".value", h.GetValue(), headerText)
	}
	switch kind := c.GetKind().(type) {
	case nil:
		if len(c.GetHeaders()) == 0 {
			v.add(field, "must say what the server is shown; to show it nothing, leave it out")
		}
	case *leaseholdv1.Credential_Bearer:
		name(field+".bearer", "Authorization")
		v.secret(field+".bearer", kind.Bearer, headerText)
	case *leaseholdv1.Credential_Basic:
		name(field+".basic", "Authorization")
		v.basic(field+".basic", kind.Basic)
	case *leaseholdv1.Credential_ApiKey:
		if key, ok := kind.ApiKey.GetPlace().(*leaseholdv1.APIKey_Header); ok {
			name(field+".api_key.header", key.Header)
		}
		v.apiKey(field+".api_key", kind.ApiKey, target)
	case *leaseholdv1.Credential_Oauth:
		name(field+".oauth", "Authorization")
		v.oauth(field+".oauth", kind.Oauth)
	case *leaseholdv1.Credential_CallerHeader:
		name(field+".caller_header", kind.CallerHeader)
	}
}

func (v *Violations) basic(field string, b *leaseholdv1.BasicCredential) {
	if n := len(b.GetUsername()); n == 0 || n > MaxUsernameBytes || strings.ContainsRune(b.GetUsername(), ':') || hasControl(b.GetUsername()) {
		v.add(field+".username", "must be 1 to %d bytes without colon and control characters; has %d", MaxUsernameBytes, n)
	}
	v.secret(field+".password", b.GetPassword(), plainText)
}

func (v *Violations) apiKey(field string, k *leaseholdv1.APIKey, target *url.URL) {
	switch place := k.GetPlace().(type) {
	case *leaseholdv1.APIKey_Header:
		v.secret(field+".value", k.GetValue(), headerText)
		return
	case *leaseholdv1.APIKey_Query:
		if n := len(place.Query); n == 0 || n > MaxQueryNameBytes || hasControl(place.Query) {
			v.add(field+".query", "must be 1 to %d bytes without control characters; has %d", MaxQueryNameBytes, n)
		}
		if target.Query().Has(place.Query) {
			v.add(field+".query", "must be a parameter that the url does not have; has %d bytes", len(place.Query))
		}
	default:
		v.add(field, "must have header or query; has neither")
	}
	v.secret(field+".value", k.GetValue(), plainText)
}

// tokenParameters are those that the token request has in any case.
var tokenParameters = []string{"grant_type", "client_id", "client_secret", "scope"}

func (v *Violations) oauth(field string, o *leaseholdv1.OAuthClientCredentials) {
	v.url(field+".token_url", o.GetTokenUrl())
	endpoint, err := url.Parse(o.GetTokenUrl())
	if err != nil {
		endpoint = &url.URL{}
	}
	if endpoint.Scheme == "http" && !isLoopbackName(endpoint.Hostname()) {
		v.add(field+".token_url", "must be an https URL unless the host is a loopback one; has %d bytes", len(o.GetTokenUrl()))
	}
	if n := len(o.GetClientId()); n == 0 || n > MaxClientIDBytes || hasControl(o.GetClientId()) {
		v.add(field+".client_id", "must be 1 to %d bytes without control characters; has %d", MaxClientIDBytes, n)
	}
	v.secret(field+".client_secret", o.GetClientSecret(), plainText)
	v.scopes(field+".scopes", o.GetScopes())
	v.parameters(field+".parameters", o.GetParameters())
	if choice := o.GetClientAuthentication(); leaseholdv1.ClientAuthentication_name[int32(choice)] == "" {
		v.add(field+".client_authentication", "must be CLIENT_AUTHENTICATION_BASIC or CLIENT_AUTHENTICATION_BODY; is %d", choice)
	}
	if o.GetTls() != nil && endpoint.Scheme != "https" {
		v.add(field+".tls", "is for https URLs only; the scheme has %d bytes and is another", len(endpoint.Scheme))
	}
	v.tls(field+".tls", o.GetTls())
}

func (v *Violations) scopes(field string, scopes []string) {
	if len(scopes) > MaxScopes {
		v.add(field, "must have at most %d entries; has %d", MaxScopes, len(scopes))
		return
	}
	for i, scope := range scopes {
		visible := func(r rune) bool { return r > ' ' && r < 0x7f && r != '"' && r != '\\' }
		if n := len(scope); n == 0 || n > MaxScopeBytes || strings.ContainsFunc(scope, func(r rune) bool { return !visible(r) }) {
			v.add(fmt.Sprintf("%s[%d]", field, i), `must be 1 to %d visible characters without " and \; has %d bytes`, MaxScopeBytes, n)
		}
	}
}

func (v *Violations) parameters(field string, parameters map[string]string) {
	if len(parameters) > MaxTokenParameters {
		v.add(field, "must have at most %d entries; has %d", MaxTokenParameters, len(parameters))
		return
	}
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		at := fmt.Sprintf("%s[%q]", field, name[:min(len(name), MaxQueryNameBytes)])
		if name == "" || len(name) > MaxQueryNameBytes || slices.Contains(tokenParameters, name) {
			v.add(at, "the name must be 1 to %d bytes and none of %s; has %d", MaxQueryNameBytes, strings.Join(tokenParameters, ", "), len(name))
		}
		v.text(at, parameters[name], MaxParameterBytes)
	}
}

// tls checks settings that workers connect with. What is in files only they see.
func (v *Violations) tls(field string, t *leaseholdv1.UpstreamTLS) {
	if t == nil {
		return
	}
	switch a := t.GetAuthorities().(type) {
	case *leaseholdv1.UpstreamTLS_CaPem:
		v.text(field+".ca_pem", a.CaPem, MaxAuthoritiesBytes)
		if !isCertificates(a.CaPem) {
			v.add(field+".ca_pem", "must be certificates as PEM; its %d bytes are not", len(a.CaPem))
		}
	case *leaseholdv1.UpstreamTLS_CaFile:
		v.path(field+".ca_file", a.CaFile)
	}
	switch c := t.GetCertificate().(type) {
	case *leaseholdv1.UpstreamTLS_CertificatePem:
		v.text(field+".certificate_pem", c.CertificatePem, MaxCertificateBytes)
		if !isCertificates(c.CertificatePem) {
			v.add(field+".certificate_pem", "must be certificates as PEM; its %d bytes are not", len(c.CertificatePem))
		}
	case *leaseholdv1.UpstreamTLS_CertificateFile:
		v.path(field+".certificate_file", c.CertificateFile)
	}
	switch {
	case t.GetCertificate() == nil && t.GetPrivateKey() != nil:
		v.add(field+".private_key", "needs a certificate: certificate_pem or certificate_file")
	case t.GetCertificate() != nil:
		v.secret(field+".private_key", t.GetPrivateKey(), anyText)
		v.pair(field, t)
	}
	if name := t.GetServerName(); name != "" && !isServerName(name) {
		v.add(field+".server_name", "must be a DNS name or an address, at most %d bytes; has %d", MaxServerNameBytes, len(name))
	}
	if choice := t.GetMinVersion(); leaseholdv1.TLSVersion_name[int32(choice)] == "" {
		v.add(field+".min_version", "must be TLS_VERSION_1_2 or TLS_VERSION_1_3; is %d", choice)
	}
}

// pair checks that a certificate and a key that are both given belong together.
func (v *Violations) pair(field string, t *leaseholdv1.UpstreamTLS) {
	key, given := t.GetPrivateKey().GetSource().(*leaseholdv1.Secret_Value)
	if !given {
		return
	}
	if block, _ := pem.Decode([]byte(key.Value)); block == nil || !strings.HasSuffix(block.Type, "PRIVATE KEY") {
		v.add(field+".private_key.value", "must be a private key as PEM; its %d bytes are not", len(key.Value))
		return
	}
	certificate, given := t.GetCertificate().(*leaseholdv1.UpstreamTLS_CertificatePem)
	if !given || !isCertificates(certificate.CertificatePem) {
		return
	}
	if _, err := tls.X509KeyPair([]byte(certificate.CertificatePem), []byte(key.Value)); err != nil {
		v.add(field+".private_key.value", "must be the key of the first certificate in certificate_pem; its %d bytes are not", len(key.Value))
	}
}

// isCertificates reports whether text is one PEM certificate or several.
func isCertificates(text string) bool {
	rest, n := []byte(text), 0
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return n > 0
		}
		if _, err := x509.ParseCertificate(block.Bytes); block.Type != "CERTIFICATE" || err != nil {
			return false
		}
		n++
	}
}

func isServerName(name string) bool {
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	return len(name) <= MaxServerNameBytes && isDNSName(name)
}

func isDNSName(name string) bool {
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
			return false
		}
	}
	return true
}

func isLoopbackName(host string) bool {
	address, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && address.Unmap().IsLoopback()
}

func (v *Violations) healthCheck(field string, h *leaseholdv1.HealthCheck) {
	if h == nil {
		return
	}
	if h.GetInterval() == nil {
		v.add(field+".interval", "is required")
	}
	v.time(field+".interval", h.GetInterval(), MinHealthInterval, MaxHealthInterval)
	v.time(field+".timeout", h.GetTimeout(), MinHealthTimeout, MaxHealthTimeout)
	v.count(field+".unhealthy_after", h.GetUnhealthyAfter(), MaxHealthCount)
	v.count(field+".healthy_after", h.GetHealthyAfter(), MaxHealthCount)
}

func (v *Violations) count(field string, n, most int32) {
	if n < 0 || n > most {
		v.add(field, "must be 0, for the default, or 1 to %d; is %d", most, n)
	}
}

// textRule is what a secret's value may consist of.
type textRule uint8

const (
	headerText textRule = iota // what a header field may have
	plainText                  // no control characters
	anyText
)

func (r textRule) breaks(value string) string {
	switch {
	case r == headerText && (strings.TrimSpace(value) != value || strings.ContainsFunc(value, notForHeader)):
		return "visible ASCII characters, with spaces and tabs only between them"
	case r == plainText && hasControl(value):
		return "text without control characters"
	}
	return ""
}

func notForHeader(r rune) bool { return r != '\t' && (r < ' ' || r > '~') }

func hasControl(s string) bool { return strings.ContainsFunc(s, unicode.IsControl) }

func (v *Violations) secret(field string, s *leaseholdv1.Secret, rule textRule) {
	switch source := s.GetSource().(type) {
	case *leaseholdv1.Secret_Value:
		if n := len(source.Value); n == 0 || n > MaxSecretBytes {
			v.add(field+".value", "must be 1 to %d bytes; has %d", MaxSecretBytes, n)
		} else if want := rule.breaks(source.Value); want != "" {
			v.add(field+".value", "must be %s; its %d bytes are not", want, n)
		}
	case *leaseholdv1.Secret_File:
		v.path(field+".file", source.File)
	case *leaseholdv1.Secret_Env:
		if n := len(source.Env); n == 0 || n > MaxSecretEnvBytes || strings.ContainsFunc(source.Env, notForEnv) {
			v.add(field+".env", "must be 1 to %d characters of A-Z, a-z, 0-9 and _; has %d bytes", MaxSecretEnvBytes, n)
		}
	default:
		if s.GetSet() {
			v.add(field, "must have value, file or env: no value with this fingerprint, of %d bytes, is stored for this server", len(s.GetFingerprint()))
			return
		}
		v.add(field, "must have value, file or env; has none")
	}
}

func notForEnv(r rune) bool {
	return r != '_' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
}

// path checks the path of a file below a worker's directory.
func (v *Violations) path(field, name string) {
	if name == "" || len(name) > MaxSecretPathBytes || strings.ContainsAny(name, "\\\x00") ||
		path.IsAbs(name) || path.Clean(name) != name || name == "." || name == ".." || strings.HasPrefix(name, "../") {
		v.add(field, "must be a relative path of 1 to %d bytes without . and .. in it; has %d", MaxSecretPathBytes, len(name))
	}
}

// reserved are the header fields that HTTP, MCP and this gateway need for
// themselves, as are all that begin with a reserved prefix.
var (
	reserved = []string{"Accept", "Accept-Encoding", "Connection", "Content-Encoding", "Content-Length", "Content-Type", "Expect", "Forwarded",
		"Host", "Keep-Alive", "Last-Event-Id", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}
	reservedPrefixes = []string{"Mcp-", "X-Leasehold-", "X-Forwarded-"}
)

func (v *Violations) headerName(field, name string) {
	if name == "" || len(name) > MaxHeaderNameBytes || strings.ContainsFunc(name, notForToken) {
		v.add(field, "must be 1 to %d characters of a header field's name; has %d bytes", MaxHeaderNameBytes, len(name))
		return
	}
	key := http.CanonicalHeaderKey(name)
	if slices.Contains(reserved, key) || slices.ContainsFunc(reservedPrefixes, func(p string) bool { return strings.HasPrefix(key, p) }) {
		v.add(field, "must not be %s, which HTTP, MCP or the gateway need for themselves", key)
	}
}

func notForToken(r rune) bool {
	return r <= ' ' || r > '~' || strings.ContainsRune("\"(),/:;<=>?@[\\]{}", r)
}
