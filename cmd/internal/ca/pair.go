package ca

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/leasehold/leasehold/cmd/internal/trust"
)

// Pair is a certificate and its private key.
type Pair struct {
	cert, key []byte
	// NotAfter is when the certificate ends.
	NotAfter time.Time
}

// Write writes the pair to two PEM files that only their owner may read. Each is
// replaced at once, the key first: whoever reads between the two finds a pair that
// does not fit, and keeps the one before.
func (p Pair) Write(certFile, keyFile string) error {
	if err := replace(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: p.key})); err != nil {
		return err
	}
	return replace(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.cert}))
}

// replace writes a file of which a reader sees all or nothing.
func replace(path string, data []byte) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // with mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name())
		}
	}()
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	if closing := file.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(file.Name(), path)
}

// Holder returns whose the certificate in a PEM file is; nobody's, if the file is
// not there.
func Holder(certFile string) (trust.Identity, error) {
	data, err := os.ReadFile(certFile)
	if errors.Is(err, fs.ErrNotExist) {
		return trust.Identity{}, nil
	}
	if err != nil {
		return trust.Identity{}, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return trust.Identity{}, fmt.Errorf("%s is not a PEM file", certFile)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return trust.Identity{}, fmt.Errorf("%s: %w", certFile, err)
	}
	return trust.Identify(cert)
}
