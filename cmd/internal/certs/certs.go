// Package certs keeps certificates as they are in files: a certificate with its
// private key, and the certificates of authorities. The files are read again while
// they are in use; what cannot be used, such as a file that is only half written,
// never takes the place of what can.
package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// warnBefore is how long before a certificate ends that is warned of: a third
	// of its life if that is less.
	warnBefore = 7 * 24 * time.Hour
	// warnEvery is how often.
	warnEvery = 24 * time.Hour
)

// Pair is a certificate and its key. Config and Certificate may be used from any
// number of goroutines while Run runs in one.
type Pair struct {
	files
	current atomic.Pointer[tls.Certificate] // the last pair that could be used
	warned  time.Time                       // when its end was last warned of; Run's own after Load
}

// Load reads a pair from PEM files. The first certificate of certFile is the
// holder's own, the others its chain. A pair that fails one of the checks, now or
// later, cannot be used.
func Load(certFile, keyFile string, logger hclog.Logger, checks ...func(*x509.Certificate) error) (*Pair, error) {
	p := &Pair{files: files{
		list:      []file{{certFile, "certificate"}, {keyFile, "private key"}},
		complaint: "certificate not changed: the files cannot be used, the last good pair stays",
		logger:    logger,
	}}
	p.use = func(data [][]byte) error {
		pair, err := tls.X509KeyPair(data[0], data[1])
		if err != nil {
			return fmt.Errorf("use %s with %s: %w", certFile, keyFile, err)
		}
		for _, check := range checks {
			if err := check(pair.Leaf); err != nil {
				return fmt.Errorf("use %s: %w", certFile, err)
			}
		}
		p.current.Store(&pair)
		p.warned = time.Time{}
		return nil
	}
	if err := p.load(); err != nil {
		return nil, err
	}
	p.age(time.Now())
	return p, nil
}

// Certificate returns the newest pair that can be used. It is not to be changed.
func (p *Pair) Certificate() *tls.Certificate { return p.current.Load() }

// Config returns the settings of a server that shows, at each handshake, the
// newest pair that can be used.
func (p *Pair) Config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"h2", "http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.Certificate(), nil },
	}
}

// Register has the registry say when the certificate ends. use says what it is
// for; each Pair of a registry has its own.
func (p *Pair) Register(registry prometheus.Registerer, use string) error {
	err := registry.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "leasehold_certificate_expiry_timestamp_seconds",
		Help:        "When this process's own certificate ends, in Unix time, by what it is for.",
		ConstLabels: prometheus.Labels{"use": use},
	}, func() float64 { return float64(p.Certificate().Leaf.NotAfter.Unix()) }))
	if err != nil {
		return fmt.Errorf("register certificate metrics: %w", err)
	}
	return nil
}

// Run reads the files every so often until ctx ends, and warns of the
// certificate's end, once a day, from 7 days before it.
func (p *Pair) Run(ctx context.Context, every time.Duration) error { return run(ctx, every, p.look) }

// run calls look every so often until ctx ends.
func run(ctx context.Context, every time.Duration, look func()) error {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
			look()
		}
	}
}

// look reads the files once and logs what is new about them.
func (p *Pair) look() {
	if p.files.look() {
		leaf := p.Certificate().Leaf
		p.logger.Info("certificate changed", "file", p.list[0].path, "subject", leaf.Subject.String(), "not_after", leaf.NotAfter)
	}
	p.age(time.Now())
}

// age warns of the certificate's end, if it is near and that was not done lately.
func (p *Pair) age(now time.Time) {
	leaf := p.Certificate().Leaf
	left := leaf.NotAfter.Sub(now)
	if left > min(warnBefore, leaf.NotAfter.Sub(leaf.NotBefore)/3) {
		return
	}
	expired := left < 0
	if now.Sub(p.warned) < warnEvery && !(expired && p.warned.Before(leaf.NotAfter)) {
		return
	}
	p.warned = now
	if expired {
		p.logger.Warn("certificate has expired: others refuse it", "file", p.list[0].path, "not_after", leaf.NotAfter)
		return
	}
	p.logger.Warn("certificate expires soon", "file", p.list[0].path, "not_after", leaf.NotAfter, "in", left.Round(time.Second))
}
