package keyring_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/controlplane/keyring"
)

func TestSealedRingOpensWithItsKeyAndNameOnly(t *testing.T) {
	ring := keyring.New(time.Now())
	key, other := keyring.RootKey{1}, keyring.RootKey{2}
	sealed, err := key.Seal("keys/ring", ring)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, ring.Keys[0].Secret) {
		t.Error("sealed ring shows its secret")
	}
	got, err := key.Open("keys/ring", sealed)
	if err != nil || !proto.Equal(got, ring) {
		t.Errorf("open: %v, want the ring", err)
	}
	changed := bytes.Clone(sealed)
	changed[len(changed)-1] ^= 1
	for name, open := range map[string]func() error{
		"another key":  func() error { _, err := other.Open("keys/ring", sealed); return err },
		"another name": func() error { _, err := key.Open("keys/other", sealed); return err },
		"changed":      func() error { _, err := key.Open("keys/ring", changed); return err },
		"short":        func() error { _, err := key.Open("keys/ring", sealed[:3]); return err },
	} {
		if err := open(); !errors.Is(err, keyring.ErrWrongRootKey) {
			t.Errorf("%s: %v, want ErrWrongRootKey", name, err)
		}
	}
}

func TestRootKeyIsMadeOnceAndReadableByItsOwnerOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "root.key")
	keys := make([]keyring.RootKey, 8)
	var group sync.WaitGroup
	for i := range keys {
		group.Go(func() {
			var err error
			if keys[i], err = keyring.LoadOrMake(path); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for i, key := range keys {
		if key != keys[0] || key == (keyring.RootKey{}) {
			t.Errorf("maker %d got another key", i)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v; want 0600", info.Mode(), err)
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if text := fmt.Sprintf("%v %+v %#v %s", keys[0], keys[0], keys[0], keys[0]); strings.Count(text, "[root key]") != 4 {
		t.Errorf("printing shows the key: %s", text)
	}
}

func TestLoadRefusesClearly(t *testing.T) {
	digits := strings.Repeat("0f", 32)
	tests := []struct {
		name, text string
		mode       os.FileMode
		says       string
	}{
		{"readable by others", digits, 0o644, "chmod 600"},
		{"readable by the group", digits, 0o640, "chmod 600"},
		{"short", digits[:62], 0o600, "64 hexadecimal digits; holds 62"},
		{"long", digits + "00", 0o600, "holds 66"},
		{"not hexadecimal", digits[:62] + "zz", 0o600, "hexadecimal"},
		{"empty", "", 0o600, "holds 0"},
	}
	for _, tt := range tests {
		path := filepath.Join(t.TempDir(), "root.key")
		if err := os.WriteFile(path, []byte(tt.text), tt.mode); err != nil {
			t.Fatal(err)
		}
		_, err := keyring.Load(path)
		if err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "0f0f") {
			t.Errorf("%s: %v, want …%s…", tt.name, err, tt.says)
		}
	}
	if _, err := keyring.Load(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "openssl rand") {
		t.Errorf("missing file: %v, want how to make one", err)
	}
}
