package credential

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const canary = "hunter2-canary"

func TestASecretIsRedactedHoweverItIsPrinted(t *testing.T) {
	type hidden struct{ inside Secret } // unexported, where no method is called
	s := NewSecret(canary)
	values := []any{s, &s, []Secret{s}, map[string]Secret{"a": s}, struct{ S Secret }{s}, hidden{s}, &hidden{s},
		Value{Inline: s}, &Credential{Bearer: &Value{Inline: s}, Headers: []Header{{Name: "X", Value: Value{Inline: s}}}}, fmt.Errorf("with %v", s), errors.Join(fmt.Errorf("%s", s))}
	var out bytes.Buffer
	for _, v := range values {
		for _, verb := range "vsqxXdTtbcoOUeEfFgGp" {
			for _, flags := range []string{"", "+", "#", "-20", "0", " ", ".3"} {
				fmt.Fprintf(&out, "%"+flags+string(verb)+"\n", v)
			}
		}
		fmt.Fprintln(&out, v)
		text, _ := json.Marshal(v)
		out.Write(text)
		text, _ = xml.Marshal(v)
		out.Write(text)
		slog.New(slog.NewTextHandler(&out, nil)).Error("x", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Error("x", "v", v)
		for _, asJSON := range []bool{false, true} {
			hclog.New(&hclog.LoggerOptions{Output: &out, JSONFormat: asJSON}).Error("x", "v", v, "w", hclog.Fmt("%v", v))
		}
	}
	for _, form := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), fmt.Sprint([]byte(canary))} {
		if strings.Contains(out.String(), form) {
			t.Errorf("%s is printed", form)
		}
	}
	if s.Reveal() != canary || (Secret{}).Reveal() != "" {
		t.Error("the secret is not what it was made of")
	}
}

func inline(value, fingerprint string) *leaseholdv1.Secret {
	return &leaseholdv1.Secret{Source: &leaseholdv1.Secret_Value{Value: value}, Fingerprint: fingerprint}
}

func file(path string) *leaseholdv1.Secret {
	return &leaseholdv1.Secret{Source: &leaseholdv1.Secret_File{File: path}}
}

func env(name string) *leaseholdv1.Secret {
	return &leaseholdv1.Secret{Source: &leaseholdv1.Secret_Env{Env: name}}
}

func bearer(s *leaseholdv1.Secret) *leaseholdv1.Credential {
	return &leaseholdv1.Credential{Kind: &leaseholdv1.Credential_Bearer{Bearer: s}}
}

func oauth(change func(*leaseholdv1.OAuthClientCredentials)) *leaseholdv1.Credential {
	o := &leaseholdv1.OAuthClientCredentials{TokenUrl: "https://id.test/token", ClientId: "c", ClientSecret: file("s")}
	change(o)
	return &leaseholdv1.Credential{Kind: &leaseholdv1.Credential_Oauth{Oauth: o}}
}

func TestSourcesTellCredentialsApartAndSayNothingOfValues(t *testing.T) {
	key := func(k *leaseholdv1.APIKey) *leaseholdv1.Credential {
		return &leaseholdv1.Credential{Kind: &leaseholdv1.Credential_ApiKey{ApiKey: k}}
	}
	seen := map[string]int{}
	for i, definition := range []*leaseholdv1.Credential{
		nil, {},
		bearer(inline(canary, "f1")), bearer(inline(canary, "f2")), bearer(file("f1")), bearer(env("f1")),
		{Headers: []*leaseholdv1.CredentialHeader{{Name: "A", Value: file("f1")}}},
		{Headers: []*leaseholdv1.CredentialHeader{{Name: "B", Value: file("f1")}}},
		{Headers: []*leaseholdv1.CredentialHeader{{Name: "B", Value: file("f1")}}, Kind: bearer(file("f1")).Kind},
		{Kind: &leaseholdv1.Credential_Basic{Basic: &leaseholdv1.BasicCredential{Username: "a", Password: file("f1")}}},
		{Kind: &leaseholdv1.Credential_Basic{Basic: &leaseholdv1.BasicCredential{Username: "b", Password: file("f1")}}},
		key(&leaseholdv1.APIKey{Place: &leaseholdv1.APIKey_Header{Header: "A"}, Value: file("f1")}),
		key(&leaseholdv1.APIKey{Place: &leaseholdv1.APIKey_Query{Query: "A"}, Value: file("f1")}),
		oauth(func(*leaseholdv1.OAuthClientCredentials) {}),
		oauth(func(o *leaseholdv1.OAuthClientCredentials) { o.TokenUrl += "2" }),
		oauth(func(o *leaseholdv1.OAuthClientCredentials) { o.ClientId += "2" }),
		oauth(func(o *leaseholdv1.OAuthClientCredentials) { o.Scopes = []string{"a", "b"} }),
		oauth(func(o *leaseholdv1.OAuthClientCredentials) { o.Parameters = map[string]string{"a": "b"} }),
		oauth(func(o *leaseholdv1.OAuthClientCredentials) {
			o.ClientAuthentication = leaseholdv1.ClientAuthentication_CLIENT_AUTHENTICATION_BODY
		}),
		oauth(func(o *leaseholdv1.OAuthClientCredentials) { o.Tls = &leaseholdv1.UpstreamTLS{ServerName: "a"} }),
		{Kind: &leaseholdv1.Credential_CallerHeader{CallerHeader: "A"}},
	} {
		c, err := Compile(definition)
		if err != nil {
			t.Fatalf("%v: %v", definition, err)
		}
		sources := string(c.AppendSources(nil))
		if first, ok := seen[sources]; ok {
			t.Errorf("credentials %d and %d have the same sources: %q", first, i, sources)
		}
		seen[sources] = i
		if strings.Contains(sources, canary) {
			t.Errorf("sources have the value: %q", sources)
		}
	}
	if len((*Credential)(nil).AppendSources(nil)) != 0 {
		t.Error("no credential has sources")
	}
}

func TestSourcesTellTLSSettingsApart(t *testing.T) {
	seen := map[string]bool{}
	for _, definition := range []*leaseholdv1.UpstreamTLS{
		nil,
		{Authorities: &leaseholdv1.UpstreamTLS_CaPem{CaPem: "a"}}, {Authorities: &leaseholdv1.UpstreamTLS_CaFile{CaFile: "a"}},
		{Certificate: &leaseholdv1.UpstreamTLS_CertificateFile{CertificateFile: "a"}, PrivateKey: file("k")},
		{Certificate: &leaseholdv1.UpstreamTLS_CertificateFile{CertificateFile: "a"}, PrivateKey: inline(canary, "k")},
		{ServerName: "a"}, {MinVersion: leaseholdv1.TLSVersion_TLS_VERSION_1_3},
	} {
		settings, err := CompileTLS(definition)
		if err != nil {
			t.Fatal(err)
		}
		sources := string(settings.AppendSources(nil))
		if seen[sources] || strings.Contains(sources, canary) {
			t.Errorf("%v: sources %q are another's, or have the key", definition, sources)
		}
		seen[sources] = true
	}
	for _, definition := range []*leaseholdv1.UpstreamTLS{{}, {MinVersion: leaseholdv1.TLSVersion_TLS_VERSION_1_2}} {
		if settings, err := CompileTLS(definition); err != nil || len(settings.AppendSources(nil)) != 0 {
			t.Errorf("%v: got %v, %v; want the sources of the defaults", definition, settings, err)
		}
	}
}

// unknown adds a field of a newer version to a message.
func unknown[M proto.Message](m M) M {
	m.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 1000, protowire.VarintType), 1))
	return m
}

func TestWhatThisWorkerDoesNotKnowIsRefusedRatherThanLeftOut(t *testing.T) {
	for want, definition := range map[string]*leaseholdv1.Credential{
		"has fields that this worker does not know":                unknown(&leaseholdv1.Credential{}),
		"oauth: has fields":                                        oauth(func(o *leaseholdv1.OAuthClientCredentials) { unknown(o) }),
		"oauth.tls: has fields":                                    oauth(func(o *leaseholdv1.OAuthClientCredentials) { o.Tls = unknown(&leaseholdv1.UpstreamTLS{}) }),
		"oauth.client_authentication: 9":                           oauth(func(o *leaseholdv1.OAuthClientCredentials) { o.ClientAuthentication = 9 }),
		"oauth.token_url: not an":                                  oauth(func(o *leaseholdv1.OAuthClientCredentials) { o.TokenUrl = "x" }),
		"oauth.client_secret: has no value":                        oauth(func(o *leaseholdv1.OAuthClientCredentials) { o.ClientSecret = nil }),
		"bearer: has no value, file or env that this worker knows": bearer(unknown(&leaseholdv1.Secret{})),
		"bearer: value has no fingerprint":                         bearer(inline(canary, "")),
		"headers[0].value: has no value":                           {Headers: []*leaseholdv1.CredentialHeader{{Name: "A"}}},
		"basic.password: has no value":                             {Kind: &leaseholdv1.Credential_Basic{}},
		"api_key: has fields":                                      {Kind: &leaseholdv1.Credential_ApiKey{ApiKey: &leaseholdv1.APIKey{Value: file("a")}}},
		"oauth.tls.min_version: 7 is not known":                    oauth(func(o *leaseholdv1.OAuthClientCredentials) { o.Tls = &leaseholdv1.UpstreamTLS{MinVersion: 7} }),
		"oauth.tls.private_key: has no value, file or env that this": oauth(func(o *leaseholdv1.OAuthClientCredentials) {
			o.Tls = &leaseholdv1.UpstreamTLS{Certificate: &leaseholdv1.UpstreamTLS_CertificateFile{CertificateFile: "a"}}
		}),
	} {
		if _, err := Compile(definition); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
