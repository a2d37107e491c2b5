package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/goleak"

	"github.com/leasehold/leasehold/cmd/internal/usage"
	"github.com/leasehold/leasehold/controlplane"
)

func TestMain(m *testing.M) {
	// The environment of whoever runs the tests must not set flags.
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "LEASEHOLD_") {
			_ = os.Unsetenv(name)
		}
	}
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("os/signal.loop"), // lives as long as the process
	)
}

// callLimit bounds what must end by itself, so that a daemon which should not
// have started fails the test instead of holding it up.
const callLimit = 30 * time.Second

// call runs the command line in this process.
func call(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), callLimit)
	defer cancel()
	code = run(ctx, args, strings.NewReader(stdin), &out, &errs)
	return code, out.String(), errs.String()
}

func TestMistakesOfUsageExitWith2AndSayWhatIsRight(t *testing.T) {
	worker := []string{"worker", "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--control", "127.0.0.1:1", "--data-dir", t.TempDir()}
	plane := []string{"controlplane", "--listen", "127.0.0.1:0"}
	with := func(base []string, more ...string) []string { return append(append([]string{}, base...), more...) }
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"dve"}, `did you mean "dev"?`},
		{[]string{"help", "dve"}, `did you mean "dev"?`},
		{[]string{"get"}, "gateways, sessions, workers"},
		{[]string{"get", "gatways"}, `did you mean "gateways"?`},
		{[]string{"get", "-o", "yaml", "sesion"}, `did you mean "session"?`},
		{[]string{"delete", "gatway", "x"}, `did you mean "gateway"?`},
		{[]string{"terminate", "sesion", "x"}, `did you mean "session"?`},
		{[]string{"completion", "bsh"}, `did you mean "bash"?`},
		{[]string{"get", "gateways", "--ouput", "yaml"}, `did you mean "--output"?`},
		{[]string{"dev", "--wokers", "3"}, `did you mean "--workers"?`},
		{[]string{"get", "gateways", "-x"}, "no flag -x"},
		{[]string{"get", "gateways", "-o", "tabel"}, `did you mean "table"?`},
		{[]string{"dev", "--log-level", "inof"}, `did you mean "info"?`},
		{[]string{"dev", "--workers", "two"}, "want a number"},
		{[]string{"dev", "--workers", "0"}, "between 1 and 64"},
		{[]string{"dev", "--listen", "0.0.0.0:8080"}, "not a loopback address"},
		{[]string{"dev", "--control-listen", ":7070"}, "not a loopback address"},
		{[]string{"dev", "--listen", "127.0.0.1:65535"}, "above 65535"},
		{[]string{"dev", "extra"}, "takes no arguments"},
		{[]string{"apply"}, "name a file with -f"},
		{[]string{"apply", "-f"}, "flag needs an argument"},
		{[]string{"apply", "-f", "x", "--selector", "labels.a:*"}, "--selector is for --prune"},
		{[]string{"apply", "-f", "x", "--prune", "--yes"}, "--prune needs --selector"},
		{[]string{"apply", "-f", "x", "--prune", "--yes", "--selector", " "}, "--prune needs --selector"},
		{[]string{"apply", "-f", "x", "--prune", "--yes", "--selector", "name = a"}, "--selector: at byte 0: must be labels.KEY = VALUE"},
		{[]string{"apply", "-f", "x", "--prune", "--selector", "labels.a:*"}, "add --yes"},
		{[]string{"diff"}, "name a file with -f"},
		{[]string{"delete", "gateway"}, "the name of a gateway"},
		{[]string{"delete", "gateway", "a", "b"}, `got also "b"`},
		{[]string{"delete", "gateway", "a/b"}, "not the name of a gateway"},
		{[]string{"terminate", "session", "digest"}, "gateways/GATEWAY/sessions/DIGEST"},
		{[]string{"terminate", "session", "a/1234567"}, "at least 8"},
		{[]string{"drain"}, `needs one of: worker`},
		{[]string{"drain", "wroker", "x"}, `did you mean "worker"?`},
		{[]string{"drain", "worker"}, "the name of a worker"},
		{[]string{"drain", "worker", "a/b"}, "not the name of a worker"},
		{[]string{"drain", "worker", "0123456789abcdef", "--timeout", "0s"}, "--timeout"},
		{[]string{"drain", "worker", "0123456789abcdef", "--wait=perhaps"}, "want true or false"},
		{[]string{"undrain", "worker", "a", "b"}, `got also "b"`},
		{[]string{"forget", "worker", "a/b"}, "not the name of a worker"},
		{[]string{"forget", "worker", "0123456789abcdef"}, "add --yes"},
		{[]string{"move", "session", "digest"}, "gateways/GATEWAY/sessions/DIGEST"},
		{[]string{"move", "session", "a/0123456789abcdef0123456789abcdef", "--to", "a/b"}, "not the name of a worker"},
		{[]string{"get", "workers", "--show-dead", "--watch"}, "exclude each other"},
		{[]string{"describe", "session", "a/b/12345678"}, "not the name of a session"},
		{[]string{"describe"}, "gateway, session, worker"},
		{[]string{"get", "sessions", "a/12345678", "--gateway", "b"}, "not a session of --gateway b"},
		{[]string{"get", "sessions", "--class", "pined"}, `did you mean "pinned"?`},
		{[]string{"get", "sessions", "--ended", "--watch"}, "exclude each other"},
		{[]string{"get", "gateways", "a", "--filter", "labels.a:*"}, "--filter selects among all"},
		{[]string{"get", "gateways", "--control", "10.0.0.1:7070"}, "not a loopback address"},
		{[]string{"get", "gateways", "--control", "127.0.0.1"}, "write 127.0.0.1:PORT"},
		{[]string{"get", "gateways", "--timeout", "0s"}, "--timeout"},
		{[]string{"get", "gateways", "--timeout", "soon"}, "invalid duration"},
		{[]string{"worker"}, "--listen: is needed"},
		{worker, "add --insecure"},
		{with(worker, "--cluster-ca", "x"), "--cluster-cert: is needed"},
		{with(worker, "--cluster-ca", "x", "--cluster-cert", "x"), "--cluster-key: is needed"},
		{with(worker, "--insecure", "--cluster-ca", "x", "--cluster-cert", "x", "--cluster-key", "x"), "exclude each other"},
		{with(worker, "--insecure", "--peer-listen", "0.0.0.0:0"), "--peer-listen: 0.0.0.0:0 is not a loopback address"},
		{with(worker, "--insecure", "--peer-advertise", "10.0.0.1:1"), "--peer-advertise: 10.0.0.1:1 is not a loopback address"},
		{with(worker, "--insecure", "--control", "10.0.0.1:7070"), "--control: 10.0.0.1:7070 is not a loopback address"},
		{with(worker, "--insecure", "--listen", "0.0.0.0:0"), "--allow-unauthenticated-clients"},
		{with(worker, "--insecure", "--max-sessions", "0"), "--max-sessions"},
		{with(worker, "--insecure", "--max-programs", "0"), "--max-programs"},
		{with(worker, "--insecure", "--program-memory", "-1"), "--program-memory"},
		{with(worker, "--insecure", "--allow-upstream-cidrs", "10.0.0.0/33"), `--allow-upstream-cidrs: "10.0.0.0/33" is not a network`},
		{with(worker, "--insecure", "--deny-upstream-cidrs", "::ffff:10.0.0.0/104"), "--deny-upstream-cidrs"},
		{with(worker, "--insecure", "--credentials-dir", "/nowhere/at/all"), "--credentials-dir: /nowhere/at/all is not a directory"},
		{[]string{"dev", "--max-programs", "0"}, "--max-programs"},
		{[]string{"dev", "--max-outage", "-1s"}, "--max-outage: -1s is not between 0 and 24h0m0s"},
		{with(worker, "--insecure", "--tls-cert", "x"), "--tls-key: is needed with --tls-cert"},
		{with(worker, "--insecure", "--tls-key", "x"), "--tls-cert: is needed with --tls-key"},
		{with(worker, "--insecure", "--trusted-proxies", "10.0.0.0/8,10.0.0.1/33"), `--trusted-proxies: "10.0.0.1/33"`},
		{with(worker, "--insecure", "--allowed-origins", "app.example.com"), "--allowed-origins"},
		{with(worker, "--insecure", "--allowed-origins", "*"), "--allowed-origins"},
		{with(worker, "--insecure", "--allowed-origins", "https://a/"), "--allowed-origins"},
		{with(worker, "--insecure", "--allowed-hosts", "a:8080"), "--allowed-hosts"},
		{plane, "--embedded-etcd"},
		{with(plane, "--embedded-etcd"), "--data-dir"},
		{with(plane, "--embedded-etcd", "--data-dir", t.TempDir(), "--max-outage", "25h"), "--max-outage: 25h0m0s is not between 0 and 24h0m0s"},
		{with(plane, "--embedded-etcd", "--data-dir", t.TempDir(), "--session-key-rotation", "0s"), "--session-key-rotation: 0s is not between 12h0m0s and 720h0m0s"},
		{with(plane, "--etcd-endpoints", "http://127.0.0.1:2379"), "--root-key"},
		{with(plane, "--embedded-etcd", "--etcd-endpoints", "http://127.0.0.1:2379"), "exclude each other"},
		{with(plane, "--embedded-etcd", "--data-dir", t.TempDir()), "add --insecure"},
		{with(plane, "--insecure", "--embedded-etcd", "--data-dir", t.TempDir(), "--listen", "0.0.0.0:0"), "--listen: 0.0.0.0:0 is not a loopback address"},
		{with(plane, "--insecure", "--embedded-etcd", "--data-dir", t.TempDir(), "--lease-ttl", "1s"), "--lease-ttl"},
		{with(plane, "--insecure", "--embedded-etcd", "--data-dir", t.TempDir(), "--lease-ttl", "2500ms"), "whole seconds"},
		{with(plane, "--insecure", "--root-key", keyFile(t), "--etcd-endpoints", "http://10.0.0.1:2379"), "--etcd-endpoints: http://10.0.0.1:2379 is not a loopback address"},
		{with(plane, "--insecure", "--root-key", keyFile(t), "--etcd-endpoints", "127.0.0.1:2379"), "is not a URL"},
		{with(plane, "--insecure", "--root-key", keyFile(t), "--etcd-endpoints", "https://127.0.0.1:2379"), "https needs --etcd-ca"},
		{with(plane, "--insecure", "--root-key", keyFile(t), "--etcd-endpoints", "https://127.0.0.1:2379", "--etcd-ca", "x"), "--etcd-cert: is needed"},
		{with(plane, "--insecure", "--root-key", keyFile(t), "--etcd-endpoints", "http://127.0.0.1:2379",
			"--etcd-ca", "x", "--etcd-cert", "x", "--etcd-key", "x"), "it must be https"},
		{with(plane, "--insecure", "--embedded-etcd", "--data-dir", t.TempDir(), "--etcd-ca", "x", "--etcd-cert", "x", "--etcd-key", "x"), "is for --etcd-endpoints"},
		{[]string{"get", "gateways", "--cluster-ca", "x"}, "--cluster-cert: is needed"},
		{[]string{"get", "gateways", "--insecure", "--cluster-ca", "x", "--cluster-cert", "x", "--cluster-key", "x"}, "exclude each other"},
		{[]string{"keys"}, "generate, root, rotate, session"},
		{[]string{"keys", "rotate"}, "data, root, session"},
		{[]string{"keys", "generate", "--prepend", "a", "b"}, "--prepend names the file"},
		{[]string{"certs"}, "init, issue"},
		{[]string{"certs", "issue", "--name", "a"}, "--role: is needed"},
		{[]string{"certs", "issue", "--role", "worker"}, `--name: name ""`},
		{[]string{"certs", "issue", "--role", "worker", "--name", "../a"}, "--name"},
		{[]string{"certs", "issue", "--role", "worker", "--name", "ca"}, "the authority's own"},
		{[]string{"certs", "issue", "--role", "etcd", "--name", "etcd-1"}, "--dns: is needed"},
		{[]string{"certs", "issue", "--role", "king", "--name", "a"}, "must be one of operator"},
		{[]string{"certs", "issue", "--role", "worker", "--name", "a", "--valid-for", "0s"}, "--valid-for"},
		{[]string{"certs", "issue", "--role", "worker", "--name", "a", "--dir", "/does/not/exist"}, "`leasehold certs init` makes an authority"},
		{with(plane, "--insecure", "--root-key", "/does/not/exist", "--etcd-endpoints", "http://127.0.0.1:2379"), "--root-key"},
	} {
		code, stdout, stderr := call(t, "", c.args...)
		if code != exitUsage || !strings.Contains(stderr, c.want) {
			t.Errorf("leasehold %s: got exit code %d and %q, want 2 and %q", strings.Join(c.args, " "), code, stderr, c.want)
		}
		if stdout != "" || !strings.Contains(stderr, "--help") {
			t.Errorf("leasehold %s: got %q on standard output and %q, want nothing there and a word of --help", strings.Join(c.args, " "), stdout, stderr)
		}
	}
}

func TestFailuresExitWith1(t *testing.T) {
	gateway := filepath.Join(t.TempDir(), "gateway.yaml")
	if err := os.WriteFile(gateway, []byte("name: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"apply", "-f", "/does/not/exist"}, "/does/not/exist: no such file or directory"},
		{[]string{"apply", "-f", "-"}, "-: there is no gateway in it"},
		{[]string{"worker", "--insecure", "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--control", "127.0.0.1:1", "--data-dir", t.TempDir(),
			"--tls-cert", gateway, "--tls-key", gateway}, "failed to find any PEM data"},
		{[]string{"apply", "-f", gateway, "--control", "127.0.0.1:1"}, "cannot reach the control plane at 127.0.0.1:1: connection refused"},
		{[]string{"get", "workers", "--control", "127.0.0.1:1"}, "check that `leasehold dev`"},
	} {
		code, _, stderr := call(t, "", c.args...)
		if code != exitFailed || !strings.Contains(stderr, c.want) {
			t.Errorf("leasehold %s: got exit code %d and %q, want 1 and %q", strings.Join(c.args, " "), code, stderr, c.want)
		}
	}
}

func TestAWrongValueInTheEnvironmentNamesIt(t *testing.T) {
	t.Setenv("LEASEHOLD_OUTPUT", "tabel")
	code, _, stderr := call(t, "", "get", "gateways")
	if code != exitUsage || !strings.Contains(stderr, "LEASEHOLD_OUTPUT") || !strings.Contains(stderr, `did you mean "table"?`) {
		t.Errorf("got exit code %d and %q, want 2 and the variable's name", code, stderr)
	}
}

// TestEveryFlagHasATwinAndEveryCommandAnExample walks the whole command line. It
// sets each twin and looks whether the flag has taken its value.
func TestEveryFlagHasATwinAndEveryCommandAnExample(t *testing.T) {
	values := map[string]string{
		"bool": "true", "string": "x", "int": "7", "duration": "7s", "stringSlice": "x", "stringArray": "x",
		"text|json": "json", "table|yaml|json|name": "json", "table|yaml|json": "json", "resumable|rebuildable|pinned": "pinned", "trace|debug|info|warn|error|off": "debug",
		"ipSlice": "127.0.0.1", "operator|worker|controlplane|etcd": "worker",
	}
	commands := 0
	walk(newRoot(), func(cmd *cobra.Command) {
		commands++
		if !strings.Contains(cmd.UsageString(), "leasehold") || cmd.Example == "" {
			t.Errorf("%s: --help has no example", cmd.CommandPath())
		}
		if cmd.Short == "" {
			t.Errorf("%s: has no short text", cmd.CommandPath())
		}
		flags := 0
		cmd.LocalFlags().VisitAll(func(flag *pflag.Flag) {
			if flag.Name == "help" {
				return
			}
			flags++
			if !strings.Contains(flag.Usage, "[$"+usage.EnvName(flag.Name)+"]") {
				t.Errorf("%s --%s: --help does not show its twin", cmd.CommandPath(), flag.Name)
			}
			value, ok := values[flag.Value.Type()]
			if !ok {
				t.Fatalf("%s --%s: no value for type %s", cmd.CommandPath(), flag.Name, flag.Value.Type())
			}
			t.Setenv(usage.EnvName(flag.Name), value)
		})
		if err := cmd.ParseFlags(nil); err != nil {
			t.Fatal(err)
		}
		if err := usage.ApplyEnv(cmd); err != nil {
			t.Errorf("%s: %v", cmd.CommandPath(), err)
		}
		cmd.LocalFlags().VisitAll(func(flag *pflag.Flag) {
			if flag.Name == "help" {
				return
			}
			want := values[flag.Value.Type()]
			if got := strings.Trim(flag.Value.String(), "[]"); got != want {
				t.Errorf("%s --%s: got %q from its twin, want %q", cmd.CommandPath(), flag.Name, got, want)
			}
			_ = os.Unsetenv(usage.EnvName(flag.Name))
		})
	})
	if commands < 15 {
		t.Errorf("walked %d commands, want all of them", commands)
	}
}

func TestHelpShowsTheTwin(t *testing.T) {
	code, stdout, _ := call(t, "", "get", "sessions", "--help")
	if code != exitOK || !strings.Contains(stdout, "[$LEASEHOLD_CONTROL]") || !strings.Contains(stdout, "leasehold get sessions --gateway counter") {
		t.Errorf("got exit code %d and\n%s", code, stdout)
	}
}

func TestVersionIsOneLine(t *testing.T) {
	code, stdout, _ := call(t, "", "version")
	if code != exitOK || !strings.HasPrefix(stdout, "leasehold v0.1.0-dev (") || strings.Count(stdout, "\n") != 1 {
		t.Errorf("got exit code %d and %q", code, stdout)
	}
}

func TestNamesAreTakenWithAndWithoutPrefix(t *testing.T) {
	const d = "0123456789abcdef0123456789abcdef"
	for _, c := range []struct{ name, gateway, want string }{
		{"gateways/a/sessions/" + d, "", "gateways/a/sessions/" + d},
		{"a/sessions/" + d, "", "gateways/a/sessions/" + d},
		{"a/" + d, "", "gateways/a/sessions/" + d},
		{"gateways/a/" + d, "", "gateways/a/sessions/" + d},
		{d, "a", "gateways/a/sessions/" + d},
		{d, "gateways/a", "gateways/a/sessions/" + d},
		{"a/" + d, "a", "gateways/a/sessions/" + d},
		{d[:8], "", "gateways/-/sessions/" + d[:8]},
	} {
		if got, err := sessionName(c.name, c.gateway); err != nil || got != c.want {
			t.Errorf("sessionName(%q, %q): got %q, %v, want %q", c.name, c.gateway, got, err, c.want)
		}
	}
	for _, name := range []string{"w", "workers/w"} {
		if got, err := workerName(name); err != nil || got != "workers/w" {
			t.Errorf("workerName(%q): got %q, %v", name, got, err)
		}
	}
}

func walk(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, child := range cmd.Commands() {
		walk(child, visit)
	}
}

func keyFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "root.key")
	if _, err := controlplane.MakeRootKeyFile(path); err != nil {
		t.Fatal(err)
	}
	return path
}
