package certs

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Bundle is the certificates of the authorities that are believed. Pool may be
// called from any number of goroutines while Run runs in one.
type Bundle struct {
	files
	current atomic.Pointer[x509.CertPool]
}

// LoadBundle reads a bundle from a PEM file, which has nothing but certificates
// and at least one.
func LoadBundle(path string, logger hclog.Logger) (*Bundle, error) {
	b := &Bundle{files: files{
		list:      []file{{path, "certificate authorities"}},
		complaint: "certificate authorities not changed: the file cannot be used, the last good ones stay",
		logger:    logger,
	}}
	b.use = func(data [][]byte) error {
		pool, err := parseBundle(data[0])
		if err != nil {
			return fmt.Errorf("use %s: %w", path, err)
		}
		b.current.Store(pool)
		return nil
	}
	if err := b.load(); err != nil {
		return nil, err
	}
	return b, nil
}

// Pool returns the newest authorities that can be used. It is not to be changed.
func (b *Bundle) Pool() *x509.CertPool { return b.current.Load() }

// Run reads the file every so often until ctx ends.
func (b *Bundle) Run(ctx context.Context, every time.Duration) error { return run(ctx, every, b.look) }

func (b *Bundle) look() {
	if b.files.look() {
		b.logger.Info("certificate authorities changed", "file", b.list[0].path)
	}
}

// parseBundle takes all of a file or nothing: what is cut off at the end of one
// that is being written may be the authority that everybody needs.
func parseBundle(data []byte) (*x509.CertPool, error) {
	pool, n := x509.NewCertPool(), 0
	for len(data) > 0 {
		block, rest := pem.Decode(data)
		if block == nil {
			if n == 0 || len(bytes.TrimSpace(data)) > 0 {
				return nil, fmt.Errorf("after %d certificates there is something that is no PEM block", n)
			}
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("it has a PEM block %q; only certificates belong there", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", n+1, err)
		}
		if !cert.IsCA {
			return nil, fmt.Errorf("certificate %d (%s) is not an authority's", n+1, cert.Subject)
		}
		pool.AddCert(cert)
		n, data = n+1, rest
	}
	return pool, nil
}
