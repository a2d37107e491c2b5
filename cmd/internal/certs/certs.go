// Package certs keeps a certificate and its private key as they are in two
// files. The files are read again while a server runs; a pair that cannot be
// used, such as one that is only half written, never takes the place of one
// that can.
package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

// maxSize bounds a file; a certificate with its chain has a few kilobytes.
const maxSize = 1 << 20

// Pair is a certificate and its key. Config may be used from any number of
// goroutines while Run runs in one.
type Pair struct {
	certFile, keyFile string
	logger            hclog.Logger
	current           atomic.Pointer[tls.Certificate] // the last pair that could be used
	cert, key         []byte                          // what is in use; Run's own after Load
	told              string                          // the last complaint; Run's own
}

// Load reads a pair from PEM files. The first certificate of certFile is the
// server's own, the others its chain.
func Load(certFile, keyFile string, logger hclog.Logger) (*Pair, error) {
	p := &Pair{certFile: certFile, keyFile: keyFile, logger: logger}
	var err error
	if p.cert, p.key, err = p.read(); err != nil {
		return nil, err
	}
	if err := p.use(p.cert, p.key); err != nil {
		return nil, err
	}
	return p, nil
}

// Config returns the settings of a server that shows, at each handshake, the
// newest pair that can be used.
func (p *Pair) Config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.current.Load(), nil },
	}
}

// Run reads the files every so often until ctx ends. Their contents are compared
// and not their times: a mount that swaps files, or two writes within one tick
// of the file system's clock, are not missed.
func (p *Pair) Run(ctx context.Context, every time.Duration) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
			p.look()
		}
	}
}

// look reads the files once and logs what is new about them; a complaint is not
// repeated.
func (p *Pair) look() {
	changed, err := p.refresh()
	complaint := ""
	if err != nil {
		complaint = err.Error()
	}
	if complaint != "" && complaint != p.told {
		p.logger.Warn("certificate not changed: the files cannot be used, the last good pair stays", "error", err)
	}
	p.told = complaint
	if changed {
		leaf := p.current.Load().Leaf
		p.logger.Info("certificate changed", "file", p.certFile, "subject", leaf.Subject.String(), "not_after", leaf.NotAfter)
	}
}

// refresh uses what is in the files now, if it is new and can be used.
func (p *Pair) refresh() (changed bool, err error) {
	cert, key, err := p.read()
	if err != nil {
		return false, err
	}
	if bytes.Equal(cert, p.cert) && bytes.Equal(key, p.key) {
		return false, nil
	}
	if err := p.use(cert, key); err != nil {
		return false, err
	}
	p.cert, p.key = cert, key
	return true, nil
}

func (p *Pair) use(cert, key []byte) error {
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("use %s with %s: %w", p.certFile, p.keyFile, err)
	}
	p.current.Store(&pair)
	if left := time.Until(pair.Leaf.NotAfter); left < 0 {
		p.logger.Warn("certificate has expired: clients will refuse it", "file", p.certFile, "not_after", pair.Leaf.NotAfter)
	}
	return nil
}

func (p *Pair) read() (cert, key []byte, err error) {
	if cert, err = readFile(p.certFile); err != nil {
		return nil, nil, fmt.Errorf("read certificate: %w", err)
	}
	if key, err = readFile(p.keyFile); err != nil {
		return nil, nil, fmt.Errorf("read private key: %w", err)
	}
	return cert, key, nil
}

func readFile(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > maxSize:
		return nil, fmt.Errorf("%s is larger than 1 MiB", path)
	case len(data) == 0:
		return nil, errors.New(path + " is empty")
	}
	return data, nil
}
