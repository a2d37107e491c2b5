package config

import (
	"encoding/hex"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func bearer(s *leaseholdv1.Secret) func(*leaseholdv1.Upstream) {
	return func(u *leaseholdv1.Upstream) {
		u.Credential = &leaseholdv1.Credential{Kind: &leaseholdv1.Credential_Bearer{Bearer: s}}
	}
}

func inline(value, fingerprint string) *leaseholdv1.Secret {
	return &leaseholdv1.Secret{Source: &leaseholdv1.Secret_Value{Value: value}, Fingerprint: fingerprint}
}

func compiled(t *testing.T, change func(*leaseholdv1.Upstream)) *Upstream {
	t.Helper()
	s := state(3, "https://h/mcp")
	change(s.Gateways["gateways/g"].Upstreams[0])
	snapshot, err := Compile(s, empty)
	if err != nil {
		t.Fatal(err)
	}
	return snapshot.Gateways["g"].Upstream
}

func TestFingerprintCoversWhatConnectionsAreMadeWithAndNothingElse(t *testing.T) {
	plain := compiled(t, func(*leaseholdv1.Upstream) {})
	// As it was before there were credentials: workers of both versions share sessions.
	if got, want := hex.EncodeToString(plain.Fingerprint[:]), "7870f5e32b791dd009f46c0f081d93e8"; got != want {
		t.Errorf("without credential and TLS: got %s, want %s", got, want)
	}
	seen := map[[16]byte]string{plain.Fingerprint: "plain"}
	for name, change := range map[string]func(*leaseholdv1.Upstream){
		"inline":         bearer(inline("canary", "one")),
		"another inline": bearer(inline("other", "two")),
		"file":           bearer(&leaseholdv1.Secret{Source: &leaseholdv1.Secret_File{File: "one"}}),
		"env":            bearer(&leaseholdv1.Secret{Source: &leaseholdv1.Secret_Env{Env: "one"}}),
		"tls":            func(u *leaseholdv1.Upstream) { u.Tls = &leaseholdv1.UpstreamTLS{ServerName: "h"} },
	} {
		u := compiled(t, change)
		if first, ok := seen[u.Fingerprint]; ok {
			t.Errorf("%s has the fingerprint of %s", name, first)
		}
		seen[u.Fingerprint] = name
	}
	if a, b := compiled(t, bearer(inline("canary", "one"))), compiled(t, bearer(inline("another", "one"))); a.Fingerprint != b.Fingerprint {
		t.Error("the fingerprint says something of the value")
	}
	for name, change := range map[string]func(*leaseholdv1.Upstream){
		"default tls": func(u *leaseholdv1.Upstream) { u.Tls = &leaseholdv1.UpstreamTLS{} },
		"bound":       func(u *leaseholdv1.Upstream) { u.MaxConcurrentRequests = 7 },
		"health":      func(u *leaseholdv1.Upstream) { u.HealthCheck = &leaseholdv1.HealthCheck{} },
	} {
		if compiled(t, change).Fingerprint != plain.Fingerprint {
			t.Errorf("%s changes the fingerprint", name)
		}
	}
}

func TestCompileKnowsHealthChecksAndTheirDefaults(t *testing.T) {
	u := compiled(t, func(u *leaseholdv1.Upstream) {
		u.HealthCheck = &leaseholdv1.HealthCheck{Interval: durationpb.New(time.Minute)}
	})
	if want := (Health{time.Minute, DefaultHealthTimeout, DefaultUnhealthyAfter, DefaultHealthyAfter}); *u.Health != want || u.Gateway != "g" {
		t.Errorf("got %+v of %q, want %+v of g", *u.Health, u.Gateway, want)
	}
	u = compiled(t, func(u *leaseholdv1.Upstream) {
		u.HealthCheck = &leaseholdv1.HealthCheck{Interval: durationpb.New(time.Minute), Timeout: durationpb.New(time.Second), UnhealthyAfter: 1, HealthyAfter: 4}
	})
	if want := (Health{time.Minute, time.Second, 1, 4}); *u.Health != want {
		t.Errorf("got %+v, want %+v", *u.Health, want)
	}
	if compiled(t, func(*leaseholdv1.Upstream) {}).Health != nil {
		t.Error("an upstream is asked though its definition does not say so")
	}
}

func TestARejectionNamesTheField(t *testing.T) {
	for want, change := range map[string]func(*leaseholdv1.Gateway){
		"upstreams: none given, at least 1 is needed":                   func(g *leaseholdv1.Gateway) { g.Upstreams = nil },
		"upstreams[0].url: not an absolute http or https URL (1 bytes)": func(g *leaseholdv1.Gateway) { g.Upstreams[0].Url = "x" },
		"upstreams[0].command: is needed with TRANSPORT_STDIO": func(g *leaseholdv1.Gateway) {
			g.Upstreams[0].Transport = leaseholdv1.Transport_TRANSPORT_STDIO
		},
		"upstreams[0].credential.bearer: has no value, file or env that this worker knows": func(g *leaseholdv1.Gateway) { bearer(&leaseholdv1.Secret{})(g.Upstreams[0]) },
		"upstreams[0].tls.min_version: 9 is not known":                                     func(g *leaseholdv1.Gateway) { g.Upstreams[0].Tls = &leaseholdv1.UpstreamTLS{MinVersion: 9} },
	} {
		s := state(3, "https://h")
		change(s.Gateways["gateways/g"])
		snapshot, err := Compile(s, empty)
		if err != nil || len(snapshot.Rejections) != 1 || len(snapshot.Gateways) != 0 {
			t.Fatalf("%s: got %+v, %v; want the gateway rejected", want, snapshot, err)
		}
		if r := snapshot.Rejections[0]; r.Field+": "+r.Reason != want || r.Gateway != "g" || r.Revision != 3 || r.Serving != 0 || r.Quarantined {
			t.Errorf("got %+v, want %s", r, want)
		}
	}
}
