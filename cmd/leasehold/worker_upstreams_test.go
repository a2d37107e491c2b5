package main

import (
	"net/netip"
	"testing"

	"github.com/spf13/cobra"

	"github.com/leasehold/leasehold/dataplane"
)

// configured returns the config that the flags of upstreams make.
func configured(t *testing.T, insecure bool, args ...string) dataplane.Config {
	t.Helper()
	u, cmd := &upstreams{}, &cobra.Command{}
	u.flags(cmd)
	if err := cmd.ParseFlags(args); err != nil {
		t.Fatal(err)
	}
	if err := u.check(); err != nil {
		t.Fatal(err)
	}
	var config dataplane.Config
	u.configure(&config, insecure)
	return config
}

func TestUpstreamsOfThisMachineNeedTheOperatorsWord(t *testing.T) {
	address := netip.MustParseAddr("127.0.0.1")
	for _, tt := range []struct {
		insecure, want bool
		args           []string
	}{
		{false, false, nil},
		{true, true, nil},
		{false, true, []string{"--allow-loopback-upstreams"}},
		{false, true, []string{"--allow-upstream-cidrs", "127.0.0.1"}},
		{true, false, []string{"--deny-upstream-cidrs", "127.0.0.0/8"}},
	} {
		config := configured(t, tt.insecure, tt.args...)
		if got := config.Dial.Check(address) == nil; got != tt.want {
			t.Errorf("insecure %t, %q: dialled %t, want %t", tt.insecure, tt.args, got, tt.want)
		}
	}
}

func TestFlagsOfUpstreamsReachTheWorker(t *testing.T) {
	dir := t.TempDir()
	config := configured(t, false, "--deny-private-upstreams", "--allow-upstream-cidrs", "10.1.2.3/8,192.0.2.1", "--deny-upstream-cidrs", "2001:db8::/32",
		"--credentials-dir", dir, "--credential-env", "A,B")
	if err := config.Dial.Validate(); err != nil {
		t.Error(err)
	}
	for text, want := range map[string]bool{"10.9.9.9": true, "172.16.0.1": false, "192.0.2.1": true, "2001:db8::1": false} {
		if got := config.Dial.Check(netip.MustParseAddr(text)) == nil; got != want {
			t.Errorf("%s: dialled %t, want %t", text, got, want)
		}
	}
	if config.CredentialsDir != dir || len(config.CredentialEnv) != 2 {
		t.Errorf("got %q and %q, want the flags' values", config.CredentialsDir, config.CredentialEnv)
	}
}
