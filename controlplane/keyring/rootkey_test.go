package keyring_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/leasehold/leasehold/controlplane/keyring"
)

func TestRootKeyIsRedactedHoweverItIsPrinted(t *testing.T) {
	key := keyring.NewRootKey()
	type inside struct{ key keyring.RootKey }
	var logged bytes.Buffer
	for _, asJSON := range []bool{false, true} {
		log := hclog.New(&hclog.LoggerOptions{Output: &logged, JSONFormat: asJSON})
		log.Info("a key", "key", key, "keys", keyring.NewRootKeys(key), "inside", inside{key})
	}
	slog.New(slog.NewTextHandler(&logged, nil)).Info("a key", "key", key, "inside", inside{key})
	slog.New(slog.NewJSONHandler(&logged, nil)).Info("a key", "key", key, "inside", inside{key})
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&logged, verb+verb+verb, key, inside{key}, keyring.NewRootKeys(key))
	}
	text, err := json.Marshal(map[string]any{"key": key, "inside": inside{key}})
	if err != nil {
		t.Fatal(err)
	}
	logged.Write(text)
	secret := key.Reveal()
	raw, _ := hexBytes(secret)
	for _, shown := range []string{secret, strings.ToUpper(secret), string(raw), base64.StdEncoding.EncodeToString(raw), fmt.Sprint([]byte(raw))[1:20]} {
		if strings.Contains(logged.String(), shown) {
			t.Errorf("the key is shown as %q", shown)
		}
	}
	if n := strings.Count(logged.String(), "[redacted]"); n < 10 {
		t.Errorf("redacted %d times, want it said each time:\n%s", n, &logged)
	}
}

func hexBytes(digits string) (raw []byte, err error) {
	_, err = fmt.Sscanf(digits, "%x", &raw)
	return raw, err
}

func TestIDOfARootKeySaysNothingOfIt(t *testing.T) {
	a, b := keyring.NewRootKey(), keyring.NewRootKey()
	if a.ID() == b.ID() || len(a.ID()) != 16 || strings.Contains(a.Reveal(), a.ID()) {
		t.Errorf("ids %q and %q, want 16 digits each that are no part of the key", a.ID(), b.ID())
	}
	if again, err := keyring.ParseRootKey([]byte(a.Reveal())); err != nil || again.ID() != a.ID() {
		t.Errorf("read again: id %v, %v; want %q", again, err, a.ID())
	}
}

func TestRootKeyIsMadeOnceAndReadableByItsOwnerOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root.key")
	ids := make([]string, 8)
	var group sync.WaitGroup
	for i := range ids {
		group.Go(func() {
			file, err := keyring.OpenOrMakeRootFile(path, hclog.NewNullLogger())
			if err != nil {
				t.Error(err)
				return
			}
			ids[i] = file.Keys().First()
		})
	}
	group.Wait()
	for i, id := range ids {
		if id != ids[0] || id == "" {
			t.Errorf("maker %d got another key", i)
		}
	}
	wantOwnersOnly(t, path)
}

// wantOwnersOnly checks that nobody else may read a file, and that nothing lies beside
// it.
func wantOwnersOnly(t *testing.T, path string) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestRootKeyFileIsRefusedClearly(t *testing.T) {
	good, other := keyring.NewRootKey().Reveal(), keyring.NewRootKey().Reveal()
	count := ""
	for i := range 32 {
		count += fmt.Sprintf("%02x", 3*i+1)
	}
	tests := []struct {
		name, text string
		mode       os.FileMode
		says       string
	}{
		{"readable by others", good, 0o644, "chmod 600"},
		{"readable by the group", good, 0o640, "chmod 600"},
		{"short", good[:62], 0o600, "line 1 must be 64 hexadecimal digits; is 62"},
		{"long", good + "00", 0o600, "is 66"},
		{"not hexadecimal", good[:62] + "zz", 0o600, "hexadecimal"},
		{"empty", "\n \n", 0o600, "has no key"},
		{"the second wrong", good + "\n\n" + other[:10] + "\n", 0o600, "line 3 must be"},
		{"one twice", good + "\n" + other + "\n" + strings.ToUpper(good), 0o600, "line 3 has key 1 again"},
		{"too many", strings.Repeat("\n", 2) + manyKeys(17), 0o600, "more than 16"},
		{"large", strings.Repeat("\n", 70_000), 0o600, "larger than"},
		{"all zero", strings.Repeat("00", 32), 0o600, "can be guessed"},
		{"one byte", strings.Repeat("0f", 32), 0o600, "can be guessed"},
		{"a pattern", strings.Repeat("0123456789abcdef", 4), 0o600, "can be guessed"},
		{"text", fmt.Sprintf("%x", "this is a very secret root key!!"), 0o600, "can be guessed"},
		{"a count", count, 0o600, "can be guessed"},
	}
	for _, tt := range tests {
		path := filepath.Join(t.TempDir(), "root.key")
		if err := os.WriteFile(path, []byte(tt.text), tt.mode); err != nil {
			t.Fatal(err)
		}
		_, err := keyring.OpenRootFile(path, hclog.NewNullLogger())
		if err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), good[:8]) || strings.Contains(err.Error(), other[:8]) {
			t.Errorf("%s: %v, want …%s…", tt.name, err, tt.says)
		}
	}
	if _, err := keyring.OpenRootFile(filepath.Join(t.TempDir(), "none"), hclog.NewNullLogger()); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "leasehold keys generate") {
		t.Errorf("missing file: %v, want how to make one", err)
	}
}

func manyKeys(n int) (text string) {
	for range n {
		text += keyring.NewRootKey().Reveal() + "\n"
	}
	return text
}

func TestPrependedKeyIsFirstAndTheFileStaysItsOwners(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root.key")
	old, err := keyring.MakeRootFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := keyring.MakeRootFile(path); !errors.Is(err, os.ErrExist) {
		t.Errorf("made again: %v, want that it exists", err)
	}
	ids, err := keyring.PrependRootKey(path)
	if err != nil || len(ids) != 2 || ids[1] != old || ids[0] == old {
		t.Fatalf("prepended: %v, %v; want a fresh key and then %s", ids, err, old)
	}
	file, err := keyring.OpenRootFile(path, hclog.NewNullLogger())
	if err != nil || fmt.Sprint(file.Keys().IDs()) != fmt.Sprint(ids) {
		t.Errorf("read: %v, want %v", err, ids)
	}
	wantOwnersOnly(t, path)
	if err := os.WriteFile(path, []byte(manyKeys(16)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keyring.PrependRootKey(path); err == nil || !strings.Contains(err.Error(), "more than 16") {
		t.Errorf("a 17th: %v, want it refused", err)
	}
}

func TestRootKeyFileIsReadAgainAndOneThatIsWrongChangesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root.key")
	old, err := keyring.MakeRootFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := make(chan string, 100)
	file, err := keyring.OpenRootFile(path, hclog.New(&hclog.LoggerOptions{Output: lineWriter(lines)}))
	if err != nil {
		t.Fatal(err)
	}
	changed := make(chan []string, 100)
	file.OnChange(func() { changed <- file.Keys().IDs() })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	done := make(chan struct{})
	go func() { defer close(done); file.Run(ctx) }()
	defer func() { cancel(); <-done }()

	if err := os.WriteFile(path, []byte("half a k"), 0o600); err != nil {
		t.Fatal(err)
	}
	select {
	case line := <-lines:
		if !strings.Contains(line, "those that were read stay") || file.Keys().First() != old {
			t.Errorf("after a wrong file: %s, first key %s; want it said, and %s", line, file.Keys().First(), old)
		}
	case <-ctx.Done():
		t.Fatal("nothing is said of a wrong file")
	}
	next := keyring.NewRootKey()
	if err := os.WriteFile(path, []byte(next.Reveal()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	select {
	case ids := <-changed:
		if len(ids) != 1 || ids[0] != next.ID() {
			t.Errorf("changed to %v, want %s", ids, next.ID())
		}
	case <-ctx.Done():
		t.Fatal("a changed file is not read")
	}
}

type lineWriter chan string

func (w lineWriter) Write(p []byte) (int, error) {
	w <- string(p)
	return len(p), nil
}
