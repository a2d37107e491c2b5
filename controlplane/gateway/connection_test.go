package gateway_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/leasehold/leasehold/controlplane/gateway"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// keyPair returns a certificate and its key as PEM.
func keyPair(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

func inline(value string) *leaseholdv1.Secret {
	return &leaseholdv1.Secret{Source: &leaseholdv1.Secret_Value{Value: value}}
}

func fromFile(path string) *leaseholdv1.Secret {
	return &leaseholdv1.Secret{Source: &leaseholdv1.Secret_File{File: path}}
}

func fromEnv(name string) *leaseholdv1.Secret {
	return &leaseholdv1.Secret{Source: &leaseholdv1.Secret_Env{Env: name}}
}

func bearer(s *leaseholdv1.Secret) *leaseholdv1.Credential {
	return &leaseholdv1.Credential{Kind: &leaseholdv1.Credential_Bearer{Bearer: s}}
}

func headers(pairs ...string) *leaseholdv1.Credential {
	c := &leaseholdv1.Credential{}
	for i := 0; i < len(pairs); i += 2 {
		c.Headers = append(c.Headers, &leaseholdv1.CredentialHeader{Name: pairs[i], Value: inline(pairs[i+1])})
	}
	return c
}

func basic(user, password string) *leaseholdv1.Credential {
	return &leaseholdv1.Credential{Kind: &leaseholdv1.Credential_Basic{Basic: &leaseholdv1.BasicCredential{Username: user, Password: inline(password)}}}
}

func queryKey(name string) *leaseholdv1.Credential {
	return &leaseholdv1.Credential{Kind: &leaseholdv1.Credential_ApiKey{ApiKey: &leaseholdv1.APIKey{Place: &leaseholdv1.APIKey_Query{Query: name}, Value: inline("secret key")}}}
}

func callerHeader(name string) *leaseholdv1.Credential {
	return &leaseholdv1.Credential{Kind: &leaseholdv1.Credential_CallerHeader{CallerHeader: name}}
}

func oauth(change func(*leaseholdv1.OAuthClientCredentials)) *leaseholdv1.Credential {
	o := &leaseholdv1.OAuthClientCredentials{TokenUrl: "https://id.test/token", ClientId: "c", ClientSecret: inline("secret")}
	change(o)
	return &leaseholdv1.Credential{Kind: &leaseholdv1.Credential_Oauth{Oauth: o}}
}

func TestValidateConnections(t *testing.T) {
	certificate, key := keyPair(t)
	_, otherKey := keyPair(t)
	up := func(change func(*leaseholdv1.Upstream)) func(*leaseholdv1.Upstream) { return change }
	with := func(c *leaseholdv1.Credential) func(*leaseholdv1.Upstream) {
		return func(u *leaseholdv1.Upstream) { u.Credential = c }
	}
	tls := func(t *leaseholdv1.UpstreamTLS) func(*leaseholdv1.Upstream) {
		return func(u *leaseholdv1.Upstream) { u.Url, u.Tls = "https://h/mcp", t }
	}
	own := func(certificate string, key *leaseholdv1.Secret) func(*leaseholdv1.Upstream) {
		return tls(&leaseholdv1.UpstreamTLS{Certificate: &leaseholdv1.UpstreamTLS_CertificatePem{CertificatePem: certificate}, PrivateKey: key})
	}
	health := func(h *leaseholdv1.HealthCheck) func(*leaseholdv1.Upstream) {
		return func(u *leaseholdv1.Upstream) { u.HealthCheck = h }
	}
	second := durationpb.New(time.Second)
	var tooMany []string
	for i := range 17 {
		tooMany = append(tooMany, "X-"+strings.Repeat("a", i+1), "secret")
	}
	tests := []struct {
		name   string
		change func(*leaseholdv1.Upstream)
		field  string // below the upstream; empty for valid
		says   string
	}{
		{"bearer", with(bearer(inline("secret"))), "", ""},
		{"longest secret", with(bearer(inline(strings.Repeat("x", 8192)))), "", ""},
		{"secret too long", with(bearer(inline(strings.Repeat("x", 8193)))), "credential.bearer.value", "1 to 8192 bytes; has 8193"},
		{"empty secret", with(bearer(inline(""))), "credential.bearer.value", "has 0"},
		{"secret with a line break", with(bearer(inline("secret\r\nX: y"))), "credential.bearer.value", "visible ASCII"},
		{"secret that ends with a space", with(bearer(inline("secret "))), "credential.bearer.value", "its 7 bytes are not"},
		{"secret without a source", with(bearer(&leaseholdv1.Secret{})), "credential.bearer", "value, file or env; has none"},
		{"no secret", with(&leaseholdv1.Credential{Kind: &leaseholdv1.Credential_Bearer{}}), "credential.bearer", "has none"},
		{"set, but nothing is stored", with(bearer(&leaseholdv1.Secret{Set: true, Fingerprint: "abc"})), "credential.bearer", "fingerprint, of 3 bytes"},
		{"file", with(bearer(fromFile("team/token"))), "", ""},
		{"longest file", with(bearer(fromFile(strings.Repeat("x", 255)))), "", ""},
		{"file too long", with(bearer(fromFile(strings.Repeat("x", 256)))), "credential.bearer.file", "1 to 255 bytes"},
		{"absolute file", with(bearer(fromFile("/etc/secret"))), "credential.bearer.file", "relative path"},
		{"file outside", with(bearer(fromFile("../secret"))), "credential.bearer.file", "relative path"},
		{"file by a detour", with(bearer(fromFile("a/../secret"))), "credential.bearer.file", "without . and .."},
		{"directory", with(bearer(fromFile("."))), "credential.bearer.file", "relative path"},
		{"env", with(bearer(fromEnv("LEASEHOLD_SECRET_A"))), "", ""},
		{"env with =", with(bearer(fromEnv("A=secret"))), "credential.bearer.env", "A-Z, a-z, 0-9 and _; has 8 bytes"},
		{"env too long", with(bearer(fromEnv(strings.Repeat("A", 129)))), "credential.bearer.env", "has 129"},
		{"empty credential", with(&leaseholdv1.Credential{}), "credential", "leave it out"},
		{"headers", with(headers("X-Tenant", "a b", "X-Key", "secret")), "", ""},
		{"most headers", with(headers(tooMany[2:]...)), "", ""},
		{"too many headers", with(headers(tooMany...)), "credential.headers", "at most 16 entries; has 17"},
		{"header twice", with(headers("X-Key", "a", "x-kEY", "secret")), "credential.headers[1].name", "that of headers[0].name"},
		{"header that is no token", with(headers("X Key", "secret")), "credential.headers[0].name", "has 5 bytes"},
		{"header that MCP needs", with(headers("mcp-session-id", "secret")), "credential.headers[0].name", "must not be Mcp-Session-Id"},
		{"header that HTTP needs", with(headers("HOST", "secret")), "credential.headers[0].name", "must not be Host"},
		{"header with a bearer", with(&leaseholdv1.Credential{Headers: headers("X-Tenant", "a").Headers, Kind: bearer(inline("secret")).Kind}), "", ""},
		{"Authorization twice", with(&leaseholdv1.Credential{Headers: headers("authorization", "secret").Headers, Kind: bearer(inline("secret")).Kind}), "credential.bearer", "that of headers[0].name"},
		{"basic", with(basic("user", "sëcret")), "", ""},
		{"basic without a name", with(basic("", "secret")), "credential.basic.username", "has 0"},
		{"basic with a colon", with(basic("a:secret", "b")), "credential.basic.username", "without colon"},
		{"password with a line break", with(basic("a", "secret\n")), "credential.basic.password.value", "control characters"},
		{"key in the query", with(queryKey("api key")), "", ""},
		{"key in a parameter that the url has", with(queryKey("a")), "credential.api_key.query", "that the url does not have"},
		{"key without a name", with(queryKey("")), "credential.api_key.query", "has 0"},
		{"key without a place", with(&leaseholdv1.Credential{Kind: &leaseholdv1.Credential_ApiKey{ApiKey: &leaseholdv1.APIKey{Value: inline("secret")}}}), "credential.api_key", "has neither"},
		{"key in a reserved header", with(&leaseholdv1.Credential{Kind: &leaseholdv1.Credential_ApiKey{ApiKey: &leaseholdv1.APIKey{
			Place: &leaseholdv1.APIKey_Header{Header: "Cookie, Host"}, Value: inline("secret")}}}), "credential.api_key.header", "has 12 bytes"},
		{"caller's header", with(callerHeader("Authorization")), "", ""},
		{"caller's forwarding", with(callerHeader("X-Forwarded-For")), "credential.caller_header", "must not be X-Forwarded-For"},
		{"oauth", with(oauth(func(*leaseholdv1.OAuthClientCredentials) {})), "", ""},
		{"oauth over http", with(oauth(func(o *leaseholdv1.OAuthClientCredentials) { o.TokenUrl = "http://id.test/secret" })), "credential.oauth.token_url", "https URL"},
		{"oauth over http on this machine", with(oauth(func(o *leaseholdv1.OAuthClientCredentials) { o.TokenUrl = "http://127.0.0.1:1/token" })), "", ""},
		{"oauth without an id", with(oauth(func(o *leaseholdv1.OAuthClientCredentials) { o.ClientId = "" })), "credential.oauth.client_id", "has 0"},
		{"oauth without a secret", with(oauth(func(o *leaseholdv1.OAuthClientCredentials) { o.ClientSecret = nil })), "credential.oauth.client_secret", "has none"},
		{"oauth with two scopes in one", with(oauth(func(o *leaseholdv1.OAuthClientCredentials) { o.Scopes = []string{"a", "b secret"} })), "credential.oauth.scopes[1]", "has 8 bytes"},
		{"oauth with another grant", with(oauth(func(o *leaseholdv1.OAuthClientCredentials) { o.Parameters = map[string]string{"grant_type": "secret"} })), `credential.oauth.parameters["grant_type"]`, "none of grant_type"},
		{"oauth shown otherwise", with(oauth(func(o *leaseholdv1.OAuthClientCredentials) { o.ClientAuthentication = 7 })), "credential.oauth.client_authentication", "is 7"},
		{"oauth with tls over http", with(oauth(func(o *leaseholdv1.OAuthClientCredentials) {
			o.TokenUrl, o.Tls = "http://localhost/", &leaseholdv1.UpstreamTLS{}
		})), "credential.oauth.tls", "https URLs only"},
		{"oauth with its own authorities", with(oauth(func(o *leaseholdv1.OAuthClientCredentials) {
			o.Tls = &leaseholdv1.UpstreamTLS{Authorities: &leaseholdv1.UpstreamTLS_CaPem{CaPem: "secret"}}
		})), "credential.oauth.tls.ca_pem", "its 6 bytes are not"},
		{"tls over http", up(func(u *leaseholdv1.Upstream) { u.Tls = &leaseholdv1.UpstreamTLS{} }), "tls", "https URLs only"},
		{"tls from files", tls(&leaseholdv1.UpstreamTLS{
			Authorities: &leaseholdv1.UpstreamTLS_CaFile{CaFile: "ca.pem"}, Certificate: &leaseholdv1.UpstreamTLS_CertificateFile{CertificateFile: "tls.crt"},
			PrivateKey: fromFile("tls.key"), ServerName: "mcp.test", MinVersion: leaseholdv1.TLSVersion_TLS_VERSION_1_3,
		}), "", ""},
		{"ca file outside", tls(&leaseholdv1.UpstreamTLS{Authorities: &leaseholdv1.UpstreamTLS_CaFile{CaFile: "../ca.pem"}}), "tls.ca_file", "relative path"},
		{"authorities", tls(&leaseholdv1.UpstreamTLS{Authorities: &leaseholdv1.UpstreamTLS_CaPem{CaPem: certificate + certificate}}), "", ""},
		{"authorities that are a key", tls(&leaseholdv1.UpstreamTLS{Authorities: &leaseholdv1.UpstreamTLS_CaPem{CaPem: key}}), "tls.ca_pem", "certificates as PEM"},
		{"pair", own(certificate, inline(key)), "", ""},
		{"certificate without a key", own(certificate, nil), "tls.private_key", "has none"},
		{"key without a certificate", tls(&leaseholdv1.UpstreamTLS{PrivateKey: inline(key)}), "tls.private_key", "needs a certificate"},
		{"another certificate's key", own(certificate, inline(otherKey)), "tls.private_key.value", "the key of the first certificate"},
		{"key that is none", own(certificate, inline("secret")), "tls.private_key.value", "private key as PEM"},
		{"server name", tls(&leaseholdv1.UpstreamTLS{ServerName: "2001:db8::1"}), "", ""},
		{"server name that is none", tls(&leaseholdv1.UpstreamTLS{ServerName: "a..b"}), "tls.server_name", "has 4"},
		{"tls version", tls(&leaseholdv1.UpstreamTLS{MinVersion: 9}), "tls.min_version", "is 9"},
		{"most requests", up(func(u *leaseholdv1.Upstream) { u.MaxConcurrentRequests = 100_000 }), "", ""},
		{"too many requests", up(func(u *leaseholdv1.Upstream) { u.MaxConcurrentRequests = 100_001 }), "max_concurrent_requests", "is 100001"},
		{"fewer than no requests", up(func(u *leaseholdv1.Upstream) { u.MaxConcurrentRequests = -1 }), "max_concurrent_requests", "is -1"},
		{"health check", health(&leaseholdv1.HealthCheck{Interval: second, Timeout: second, UnhealthyAfter: 100, HealthyAfter: 100}), "", ""},
		{"health check without an interval", health(&leaseholdv1.HealthCheck{}), "health_check.interval", "is required"},
		{"health check too often", health(&leaseholdv1.HealthCheck{Interval: durationpb.New(time.Millisecond)}), "health_check.interval", "is 1ms"},
		{"health check with no time", health(&leaseholdv1.HealthCheck{Interval: second, Timeout: durationpb.New(0)}), "health_check.timeout", "is 0s"},
		{"health check of patience", health(&leaseholdv1.HealthCheck{Interval: second, UnhealthyAfter: 101}), "health_check.unhealthy_after", "is 101"},
		{"health check of distrust", health(&leaseholdv1.HealthCheck{Interval: second, HealthyAfter: -1}), "health_check.healthy_after", "is -1"},
		{"health check without a caller", up(func(u *leaseholdv1.Upstream) {
			u.Credential, u.HealthCheck = callerHeader("Authorization"), &leaseholdv1.HealthCheck{Interval: second}
		}), "health_check", "no caller"},
		{"decimal address", up(func(u *leaseholdv1.Upstream) { u.Url = "http://2130706433/" }), "url", "four decimal numbers"},
		{"octal address", up(func(u *leaseholdv1.Upstream) { u.Url = "http://0177.0.0.1/" }), "url", "four decimal numbers"},
		{"hexadecimal address", up(func(u *leaseholdv1.Upstream) { u.Url = "http://0X7f000001./" }), "url", "four decimal numbers"},
		{"short address", up(func(u *leaseholdv1.Upstream) { u.Url = "http://127.1/" }), "url", "four decimal numbers"},
		{"name with digits", up(func(u *leaseholdv1.Upstream) { u.Url = "http://1.2.3.example/" }), "", ""},
		{"program with a credential", asProgram(func(u *leaseholdv1.Upstream) { u.Credential = bearer(inline("secret")) }), "credential", "absent with TRANSPORT_STDIO"},
		{"program with tls", asProgram(func(u *leaseholdv1.Upstream) { u.Tls = &leaseholdv1.UpstreamTLS{} }), "tls", "absent"},
		{"program with a health check", asProgram(func(u *leaseholdv1.Upstream) { u.HealthCheck = &leaseholdv1.HealthCheck{Interval: second} }), "health_check", "absent"},
		{"program with few calls", asProgram(func(u *leaseholdv1.Upstream) { u.MaxConcurrentRequests = 1 }), "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := valid()
			tt.change(g.Upstreams[0])
			got := gateway.Validate(g)
			if tt.field == "" {
				if got.Err() != nil {
					t.Errorf("got %v, want no violation", got)
				}
				return
			}
			for _, v := range got {
				if strings.Contains(v.Description, "secret ") || strings.Contains(v.Description, "PRIVATE") {
					t.Errorf("violation shows the value: %v", v)
				}
				if v.Field == "gateway.upstreams[0]."+tt.field && strings.Contains(v.Description, tt.says) {
					return
				}
			}
			t.Errorf("got %v, want gateway.upstreams[0].%s: …%s…", got, tt.field, tt.says)
		})
	}
}

func asProgram(change func(*leaseholdv1.Upstream)) func(*leaseholdv1.Upstream) {
	return func(u *leaseholdv1.Upstream) {
		u.Url, u.Transport, u.Command = "", leaseholdv1.Transport_TRANSPORT_STDIO, "server"
		change(u)
	}
}

// stored returns a valid gateway with a secret, as it is stored.
func stored(value string) *leaseholdv1.Gateway {
	g := valid()
	g.Upstreams[0].Credential = &leaseholdv1.Credential{Headers: headers("X-Key", "first").Headers, Kind: bearer(inline(value)).Kind}
	gateway.Retain(nil, g)
	return g
}

func TestAShownGatewayHasNoValuesAndIsAWriteThatChangesNothing(t *testing.T) {
	old := stored("canary")
	shown := gateway.Shown(old)
	if text := prototext.Format(shown); strings.Contains(text, "canary") || strings.Contains(text, "first") {
		t.Errorf("a value is shown: %s", text)
	}
	s := shown.Upstreams[0].Credential.GetBearer()
	if !s.Set || s.Fingerprint == "" || old.Upstreams[0].Credential.GetBearer().GetValue() != "canary" {
		t.Errorf("shown: got %v, want it set, with a fingerprint, and what is stored as it was", s)
	}
	same := gateway.Apply(old, shown, nil)
	if got := same.Upstreams[0].Credential; got.GetBearer().GetValue() != "canary" || got.Headers[0].Value.GetValue() != "first" ||
		prototext.Format(same) != prototext.Format(gateway.Apply(old, old, nil)) {
		t.Errorf("what was shown, applied: got %v, want what was stored", same)
	}
	if plain := valid(); gateway.Shown(plain) != plain {
		t.Error("a gateway without secrets was copied")
	}
}

func TestAFingerprintChangesExactlyWithTheValueWhateverTheCallerSays(t *testing.T) {
	old := stored("one")
	before := old.Upstreams[0].Credential.GetBearer().Fingerprint
	change := func(s *leaseholdv1.Secret) *leaseholdv1.Secret {
		next := valid()
		next.Upstreams[0].Credential = bearer(s)
		return gateway.Apply(old, next, nil).Upstreams[0].Credential.GetBearer()
	}
	if got := change(inline("one")); got.Fingerprint != before {
		t.Errorf("the same value: got the fingerprint %q, want %q", got.Fingerprint, before)
	}
	for _, fingerprint := range []string{"", before} {
		two := inline("two")
		two.Set, two.Fingerprint = true, fingerprint
		if got := change(two); got.Fingerprint == before || got.Fingerprint == "" || got.Set || got.GetValue() != "two" {
			t.Errorf("another value with the fingerprint %q: got %v, want a new one", fingerprint, got)
		}
	}
	file := fromFile("a")
	file.Set, file.Fingerprint = true, before
	if got := change(file); got.Fingerprint != "" || got.Set || got.GetFile() != "a" {
		t.Errorf("a file in the value's place: got %v, want nothing of the value", got)
	}
	if got := change(&leaseholdv1.Secret{Set: true, Fingerprint: "other"}); got.GetSource() != nil {
		t.Errorf("an unknown fingerprint: got %v, want no value", got)
	}
}

func TestAStoredValueIsKeptOnlyForTheServerThatItWasGivenFor(t *testing.T) {
	old := stored("canary")
	old.Upstreams[0].Url = "https://mcp.example/mcp"
	old.Upstreams[0].Tls = &leaseholdv1.UpstreamTLS{PrivateKey: inline("key"), Certificate: &leaseholdv1.UpstreamTLS_CertificateFile{CertificateFile: "crt"}}
	gateway.Retain(nil, old)
	viaOAuth := proto.CloneOf(old)
	viaOAuth.Upstreams[0].Credential = &leaseholdv1.Credential{Kind: &leaseholdv1.Credential_Oauth{
		Oauth: &leaseholdv1.OAuthClientCredentials{TokenUrl: "https://login.example/token", ClientId: "id", ClientSecret: inline("canary")}}}
	gateway.Retain(nil, viaOAuth)
	for _, tt := range []struct {
		name   string
		from   *leaseholdv1.Gateway
		change func(*leaseholdv1.Upstream)
		kept   int
	}{
		{"another path", old, func(u *leaseholdv1.Upstream) { u.Url = "https://MCP.example/other?a=b" }, 3},
		{"another host", old, func(u *leaseholdv1.Upstream) { u.Url = "https://evil.example/mcp" }, 1},
		{"another port", old, func(u *leaseholdv1.Upstream) { u.Url = "https://mcp.example:8443/mcp" }, 1},
		{"in the clear", old, func(u *leaseholdv1.Upstream) { u.Url = "http://mcp.example/mcp" }, 1},
		{"another server, the same token endpoint", viaOAuth, func(u *leaseholdv1.Upstream) { u.Url = "https://evil.example/mcp" }, 2},
		{"another token endpoint", viaOAuth, func(u *leaseholdv1.Upstream) {
			u.Credential.GetOauth().TokenUrl = "https://evil.example/token"
		}, 1},
		{"a client secret as a bearer token", viaOAuth, func(u *leaseholdv1.Upstream) {
			u.Credential = bearer(u.Credential.GetOauth().GetClientSecret())
		}, 1},
	} {
		next := proto.CloneOf(gateway.Shown(tt.from))
		tt.change(next.Upstreams[0])
		next = gateway.Apply(tt.from, next, nil)
		kept, all := 0, 0
		gateway.EachSecret(next.ProtoReflect(), func(s *leaseholdv1.Secret) {
			all++
			if s.GetValue() != "" {
				kept++
			}
		})
		if kept != tt.kept {
			t.Errorf("%s: %d of %d values were kept, want %d", tt.name, kept, all, tt.kept)
		}
		if err := gateway.Validate(next).Err(); kept < all && (err == nil || !strings.Contains(err.Error(), "is stored for this server")) {
			t.Errorf("%s: got %v, want it refused since a value is missing", tt.name, err)
		}
	}
}
