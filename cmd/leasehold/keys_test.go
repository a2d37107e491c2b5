package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/leasehold/leasehold/controlplane"
)

// runPlane runs a control plane in this process, and returns its address and the file
// of its root keys.
func runPlane(t *testing.T) (address, rootKeys string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dir, ready := t.TempDir(), make(chan error, 10)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := controlplane.Run(ctx, controlplane.Config{Listener: listener, EmbeddedEtcd: true, DataDir: dir, Health: func(err error) { ready <- err }}); err != nil {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	return listener.Addr().String(), filepath.Join(dir, "root.key")
}

const secretManifest = `
name: gateways/one
upstreams:
- name: u
  url: http://127.0.0.1:1/mcp
  credential: {bearer: {value: canary-cli}}
`

// The rotation that `leasehold keys --help` describes, at a control plane that serves.
func TestRootKeyIsRotatedAsTheHelpSays(t *testing.T) {
	control, file := runPlane(t)
	must := func(args ...string) (stdout, stderr string) {
		t.Helper()
		code, stdout, stderr := call(t, secretManifest, args...)
		if code != exitOK {
			t.Fatalf("leasehold %s: exit %d, %s", strings.Join(args, " "), code, stderr)
		}
		return stdout, stderr
	}
	// shows waits until the keys are shown as text, since files are read each second.
	shows := func(text ...string) {
		t.Helper()
		shown := ""
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
			shown, _ = must("keys", "root", "--control", control)
			missing := false
			for _, want := range text {
				missing = missing || !strings.Contains(shown, want)
			}
			if !missing {
				return
			}
		}
		t.Fatalf("the keys are\n%swant in it %q", shown, text)
	}

	must("apply", "--control", control, "-f", "-")
	out, _ := must("keys", "root", "--control", control)
	old, _, _ := strings.Cut(strings.Split(out, "\n")[1], " ")
	shows(old+"  wraps  1          yes", "age of data keys: ")

	out, _ = must("keys", "generate", "--prepend", file)
	fresh := strings.Fields(out)[2]
	shows(fresh+"  wraps    0          no", old+"  unwraps  1          yes")
	out, note := must("keys", "rotate", "root", "--control", control)
	if !strings.Contains(out, "root key "+fresh+": gateways with secrets: 1, rotated: 1; key ring rotated") || !strings.Contains(note, "may be removed") {
		t.Errorf("rotate root: %s%s, want one rotated, and that the old key may go", out, note)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(content), "\n")
	if err := os.WriteFile(file, []byte(first+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	shows("KEY RING\n" + fresh + "  wraps  1          yes\nage")
	if out, _ = must("keys", "rotate", "data", "--control", control); !strings.Contains(out, "data keys: gateways with secrets: 1, rotated: 1") {
		t.Errorf("rotate data: %s, want one rotated", out)
	}

	// With another key in the place of the one that is needed, the rotation fails.
	if _, err := controlplane.PrependRootKey(file); err != nil {
		t.Fatal(err)
	}
	content, err = os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ = strings.Cut(string(content), "\n")
	if err := os.WriteFile(file, []byte(first+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	shows(fresh + "  missing  1          yes")
	code, _, stderr := call(t, "", "keys", "rotate", "root", "--control", control)
	if code != exitFailed || !strings.Contains(stderr, "gateways/one") || !strings.Contains(stderr, "under "+fresh+": data keys: 1, and the key ring") {
		t.Errorf("rotate without the key: exit %d, %s; want a failure that names the gateway and the key", code, stderr)
	}
	if out, _ := must("describe", "gateway", "one", "--control", control); !strings.Contains(out, "Unusable  ") || !strings.Contains(out, fresh) {
		t.Errorf("described is\n%s\nwant it unusable for want of %s", out, fresh)
	}
}

func TestRootKeyIsMadeForItsOwnerOnlyAndNeverReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root.key")
	code, out, _ := call(t, "", "keys", "generate", path)
	if code != exitOK || !strings.HasPrefix(out, "root key ") {
		t.Fatalf("exit %d, %s", code, out)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	before, _ := os.ReadFile(path)
	if strings.Contains(out, strings.TrimSpace(string(before))) {
		t.Error("the key is printed")
	}
	if code, _, errs := call(t, "", "keys", "generate", path); code == exitOK || !strings.Contains(errs, "--prepend") {
		t.Errorf("made again: exit %d, %s; want it refused", code, errs)
	}
	if after, _ := os.ReadFile(path); string(after) != string(before) {
		t.Error("the key was replaced")
	}
	if code, out, _ := call(t, "", "keys", "generate"); code != exitOK || len(strings.TrimSpace(out)) != 64 {
		t.Errorf("without a file: exit %d, %d bytes; want a key's line", code, len(out))
	}
}
