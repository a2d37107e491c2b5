package main

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/leasehold/leasehold/cmd/internal/certs/certtest"
	"github.com/leasehold/leasehold/cmd/internal/manifest"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// startControlPlane runs a control plane without workers in this process and returns
// its address.
func startControlPlane(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, errs := newOutput(`ready`), newOutput(`^never$`)
	code := make(chan int, 1)
	go func() {
		code <- run(ctx, []string{"controlplane", "--insecure", "--listen", "127.0.0.1:0", "--admin-listen", "", "--embedded-etcd", "--data-dir", t.TempDir()}, strings.NewReader(""), out, errs)
	}()
	t.Cleanup(func() {
		cancel()
		if got := <-code; got != exitOK {
			t.Errorf("the control plane ended with %d: %s", got, errs)
		}
	})
	select {
	case <-out.seen:
	case got := <-code:
		code <- got
		t.Fatalf("the control plane ended before it was ready: %s", errs)
	case <-time.After(startLimit):
		t.Fatalf("the control plane is not ready: %s", errs)
	}
	return regexp.MustCompile(`grpc=(\S+)`).FindStringSubmatch(out.String())[1]
}

func secret(value string) *leaseholdv1.Secret {
	return &leaseholdv1.Secret{Source: &leaseholdv1.Secret_Value{Value: value}}
}

// everyField returns gateways that together have every field of a definition that an
// operator may set.
func everyField(t *testing.T) []*leaseholdv1.Gateway {
	pair := certtest.Leaf(t, "everything")
	upstreams := map[string]*leaseholdv1.Upstream{
		"bearer": {
			Url: "https://example.com/mcp", Transport: leaseholdv1.Transport_TRANSPORT_SSE, RepeatableTools: []string{"read", "list"},
			ReconnectsPerSecond: 7, ResponseTimeout: durationpb.New(90 * time.Second), MaxConcurrentRequests: 9,
			Credential: &leaseholdv1.Credential{
				Headers: []*leaseholdv1.CredentialHeader{{Name: "X-Key", Value: secret("canary-header")}},
				Kind:    &leaseholdv1.Credential_Bearer{Bearer: secret("canary-bearer")},
			},
			Tls: &leaseholdv1.UpstreamTLS{
				Authorities: &leaseholdv1.UpstreamTLS_CaPem{CaPem: string(pair.Cert)}, Certificate: &leaseholdv1.UpstreamTLS_CertificatePem{CertificatePem: string(pair.Cert)},
				PrivateKey: secret(string(pair.Key)), ServerName: "example.org", MinVersion: leaseholdv1.TLSVersion_TLS_VERSION_1_3,
			},
			HealthCheck: &leaseholdv1.HealthCheck{Interval: durationpb.New(time.Minute), Timeout: durationpb.New(1500 * time.Millisecond), UnhealthyAfter: 4, HealthyAfter: 5},
		},
		"basic": {Url: "https://example.com/mcp",
			Credential: &leaseholdv1.Credential{Kind: &leaseholdv1.Credential_Basic{Basic: &leaseholdv1.BasicCredential{
				Username: "me", Password: &leaseholdv1.Secret{Source: &leaseholdv1.Secret_File{File: "secrets/password"}}}}},
			Tls: &leaseholdv1.UpstreamTLS{
				Authorities: &leaseholdv1.UpstreamTLS_CaFile{CaFile: "ca.pem"}, Certificate: &leaseholdv1.UpstreamTLS_CertificateFile{CertificateFile: "me.pem"},
				PrivateKey: &leaseholdv1.Secret{Source: &leaseholdv1.Secret_Env{Env: "LEASEHOLD_SECRET_KEY"}},
			}},
		"api-header": {Url: "https://example.com/mcp", Credential: &leaseholdv1.Credential{Kind: &leaseholdv1.Credential_ApiKey{ApiKey: &leaseholdv1.APIKey{
			Place: &leaseholdv1.APIKey_Header{Header: "X-Api-Key"}, Value: secret("canary-api")}}}},
		"api-query": {Url: "https://example.com/mcp?a=b", Credential: &leaseholdv1.Credential{Kind: &leaseholdv1.Credential_ApiKey{ApiKey: &leaseholdv1.APIKey{
			Place: &leaseholdv1.APIKey_Query{Query: "key"}, Value: secret("canary-query")}}}},
		"oauth": {Url: "https://example.com/mcp", Credential: &leaseholdv1.Credential{Kind: &leaseholdv1.Credential_Oauth{Oauth: &leaseholdv1.OAuthClientCredentials{
			TokenUrl: "https://example.com/token", ClientId: "id", ClientSecret: secret("canary-oauth"), Scopes: []string{"a", "b"},
			Parameters: map[string]string{"audience": "on", "n": "1"}, ClientAuthentication: leaseholdv1.ClientAuthentication_CLIENT_AUTHENTICATION_BODY,
			Tls: &leaseholdv1.UpstreamTLS{MinVersion: leaseholdv1.TLSVersion_TLS_VERSION_1_2}}}}},
		"caller": {Url: "https://example.com/mcp", Credential: &leaseholdv1.Credential{Kind: &leaseholdv1.Credential_CallerHeader{CallerHeader: "Authorization"}}},
		"program": {Transport: leaseholdv1.Transport_TRANSPORT_STDIO, Command: "/bin/server", Args: []string{"--all", "yes"},
			Env: map[string]string{"MODE": "on"}},
	}
	var all []*leaseholdv1.Gateway
	for name, upstream := range upstreams {
		upstream.Name = "u"
		all = append(all, &leaseholdv1.Gateway{
			Name: "gateways/" + name, Description: "a: \"text\"\n--- with lines\n", Labels: map[string]string{"on": "yes", "n": "1", "a.b/c": ""},
			Upstreams: []*leaseholdv1.Upstream{upstream},
			Session: &leaseholdv1.SessionPolicy{IdleTimeout: durationpb.New(61 * time.Second), AbsoluteLifetime: durationpb.New(time.Hour),
				OnUpstreamLost: leaseholdv1.OnUpstreamLost_ON_UPSTREAM_LOST_REINITIALIZE},
		})
	}
	all = append(all, ofSeveral())
	slices.SortFunc(all, func(a, b *leaseholdv1.Gateway) int { return strings.Compare(a.GetName(), b.GetName()) })
	return all
}

// ofSeveral returns a gateway that has what only those with several upstreams have.
func ofSeveral() *leaseholdv1.Gateway {
	selection := func(name string) *leaseholdv1.ItemSelection {
		return &leaseholdv1.ItemSelection{Include: []string{name + "*"}, Exclude: []string{name + "-not"}, Overrides: []*leaseholdv1.ItemOverride{
			{Name: name + "-a", NewDescription: "other: words"}, {Name: name + "-b", Hide: true}}}
	}
	tools := selection("tool")
	tools.Overrides[0].NewName = "another"
	return &leaseholdv1.Gateway{
		Name:   "gateways/several",
		Naming: &leaseholdv1.Naming{Mode: leaseholdv1.NamingMode_NAMING_MODE_PREFIX, Separator: "."}, OpenTimeout: durationpb.New(2 * time.Second),
		Session: &leaseholdv1.SessionPolicy{IdleTimeout: durationpb.New(61 * time.Second), AbsoluteLifetime: durationpb.New(time.Hour),
			OnUpstreamLost: leaseholdv1.OnUpstreamLost_ON_UPSTREAM_LOST_FAIL},
		Upstreams: []*leaseholdv1.Upstream{
			{Name: "a", Url: "https://example.com/a", Required: true, OpenTimeout: durationpb.New(3 * time.Second), Tools: tools, Prompts: selection("prompt")},
			{Name: "b", Url: "https://example.com/b", Lazy: true, Resources: selection("file:///"), ResourceTemplates: selection("file:///{x}")},
		},
	}
}

// serverSet are the fields that are read and not written.
var serverSet = []protoreflect.FullName{
	"leasehold.v1.Gateway.etag", "leasehold.v1.Gateway.create_time", "leasehold.v1.Gateway.update_time", "leasehold.v1.Gateway.status",
	"leasehold.v1.Secret.set", "leasehold.v1.Secret.fingerprint",
}

// fieldsOf notes each field of a message of ours and of those that it may hold.
func fieldsOf(md protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool) {
	for i := range md.Fields().Len() {
		field := md.Fields().Get(i)
		if seen[field.FullName()] || slices.Contains(serverSet, field.FullName()) {
			continue
		}
		seen[field.FullName()] = true
		if of := field.Message(); of != nil && !field.IsMap() && of.ParentFile().Package() == md.ParentFile().Package() {
			fieldsOf(of, seen)
		}
	}
}

// strike takes the fields that a message has from those that are missing.
func strike(m protoreflect.Message, missing map[protoreflect.FullName]bool) {
	m.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		delete(missing, field.FullName())
		switch {
		case field.Message() == nil || field.IsMap():
		case field.IsList():
			for i := range value.List().Len() {
				strike(value.List().Get(i).Message(), missing)
			}
		default:
			strike(value.Message(), missing)
		}
		return true
	})
}

// TestEveryFieldComesBackFromGetAsItWasAppliedAndCanBeAppliedAgain fails for a field
// that nobody has added to everyField.
func TestEveryFieldComesBackFromGetAsItWasAppliedAndCanBeAppliedAgain(t *testing.T) {
	given := everyField(t)
	missing := map[protoreflect.FullName]bool{}
	fieldsOf((&leaseholdv1.Gateway{}).ProtoReflect().Descriptor(), missing)
	if len(missing) < 50 {
		t.Errorf("found %d fields, want all of them", len(missing))
	}
	var files strings.Builder
	for _, gateway := range given {
		strike(gateway.ProtoReflect(), missing)
		text, err := protojson.Marshal(gateway)
		if err != nil {
			t.Fatal(err)
		}
		files.Write(text) // with the values of secrets, which no YAML of ours would have
	}
	for field := range missing {
		t.Errorf("no gateway here has %s", field)
	}

	control := startControlPlane(t)
	code, stdout, stderr := call(t, files.String(), "apply", "-f", "-", "--control", control)
	if code != exitOK || strings.Count(stdout, " created\n") != len(given) {
		t.Fatalf("got exit code %d, %q and %s", code, stdout, stderr)
	}
	for _, format := range []string{"yaml", "json"} {
		code, printed, stderr := call(t, "", "get", "gateways", "-o", format, "--control", control)
		if code != exitOK || strings.Contains(printed, "canary") || strings.Contains(printed, "PRIVATE KEY") {
			t.Errorf("get -o %s: got exit code %d, %q and\n%s", format, code, stderr, printed)
		}
		again, err := manifest.Gateways([]byte(printed))
		if err != nil || len(again) != len(given) {
			t.Fatalf("read -o %s again: got %d gateways, %v", format, len(again), err)
		}
		for i, got := range again {
			if want := given[i]; !proto.Equal(unsecret(t, got), unsecret(t, want)) {
				t.Errorf("%s came back as\n%v\nwant\n%v", want.GetName(), got, want)
			}
		}
		code, stdout, stderr = call(t, printed, "apply", "-f", "-", "--control", control)
		if code != exitOK || strings.Count(stdout, " unchanged\n") != len(given) {
			t.Errorf("apply of get -o %s: got exit code %d, %q and %s", format, code, stdout, stderr)
		}
		if code, stdout, stderr := call(t, printed, "diff", "-f", "-", "--control", control); code != exitOK || stdout != "" {
			t.Errorf("diff of get -o %s: got exit code %d, %q and %s", format, code, stdout, stderr)
		}
	}
	// The same values given again are no change either.
	code, stdout, stderr = call(t, files.String(), "apply", "-f", "-", "--control", control)
	if code != exitOK || strings.Count(stdout, " unchanged\n") != len(given) {
		t.Errorf("apply of the same files: got exit code %d, %q and %s", code, stdout, stderr)
	}
}

// unsecret returns what can be compared of what was given and what came back: of a
// secret's value only that there is one.
func unsecret(t *testing.T, gateway *leaseholdv1.Gateway) *leaseholdv1.Gateway {
	t.Helper()
	bare := definition(gateway)
	eachSecret(bare, func(s *leaseholdv1.Secret) {
		if s.GetValue() != "" || s.GetSet() && s.GetFingerprint() != "" {
			s.Source, s.Set, s.Fingerprint = nil, true, ""
		}
	})
	return bare
}
