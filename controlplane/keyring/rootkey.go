package keyring

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const rootKeyMode fs.FileMode = 0o600

// RootKey wraps the key ring.
type RootKey [32]byte

// String hides the key from logs and errors.
func (RootKey) String() string { return "[root key]" }

// GoString hides the key from %#v.
func (k RootKey) GoString() string { return k.String() }

// Load reads a root key of 64 hexadecimal digits from a file that nobody but its
// owner may read.
func Load(path string) (RootKey, error) {
	var key RootKey
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return key, fmt.Errorf("root key file %s does not exist; make one with: (umask 077; openssl rand -hex 32 > %s): %w", path, path, fs.ErrNotExist)
	}
	if err != nil {
		return key, fmt.Errorf("root key: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return key, fmt.Errorf("root key file %s has mode %04o: others may use it; chmod 600 %s", path, mode, path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return key, fmt.Errorf("root key: %w", err)
	}
	text = bytes.TrimSpace(text)
	if len(text) != hex.EncodedLen(len(key)) {
		return key, fmt.Errorf("root key file %s must hold %d hexadecimal digits; holds %d bytes", path, hex.EncodedLen(len(key)), len(text))
	}
	if _, err := hex.Decode(key[:], text); err != nil {
		return RootKey{}, fmt.Errorf("root key file %s must hold %d hexadecimal digits; some of its bytes are none", path, hex.EncodedLen(len(key)))
	}
	return key, nil
}

// LoadOrMake is Load, but makes the file with a fresh key if it is not there.
// The file is complete and on disk before it has its name, so that a crash never
// leaves a broken key behind; of two that make it at once both get the same key.
func LoadOrMake(path string) (RootKey, error) {
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return Load(path)
	}
	if err := makeFile(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return RootKey{}, fmt.Errorf("make root key file: %w", err)
	}
	return Load(path)
}

func makeFile(path string) error {
	var key RootKey
	_, _ = rand.Read(key[:]) // never fails
	f, err := os.CreateTemp(filepath.Dir(path), ".root-key-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if err := write(f, key); err != nil {
		return err
	}
	return os.Link(f.Name(), path)
}

func write(f *os.File, key RootKey) error {
	_, err := f.WriteString(hex.EncodeToString(key[:]) + "\n")
	return errors.Join(err, f.Chmod(rootKeyMode), f.Sync(), f.Close())
}
