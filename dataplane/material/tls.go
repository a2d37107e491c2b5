package material

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"github.com/leasehold/leasehold/dataplane/credential"
)

// settings makes the TLS settings of connections to one host. Safe for concurrent
// use.
type settings struct {
	tls  *credential.TLS // nil for the defaults
	host string

	mu        sync.Mutex // guards what follows
	current   *made      // the last that could be used; nil at first
	complaint string
}

// made is settings that were made of certain material.
type made struct {
	from   [3]*content // authorities, certificate and key, of what is in files
	config *tls.Config
	serial int
}

// TLS returns the settings to connect with now, and a text that is another one
// whenever they are: a connection that was made under another is not to be used any
// more. nil for plain HTTP.
func (c *Connection) TLS() (*tls.Config, string, error) {
	if c.tls == nil {
		return nil, "", nil
	}
	return c.tls.get(c.store)
}

// get returns settings of what is in the files now. If that cannot be used, such as
// a certificate whose key is not there yet, the last that could be are.
func (s *settings) get(store *Store) (*tls.Config, string, error) {
	from, err := s.read(store)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && (s.current == nil || s.current.from != from) {
		var config *tls.Config
		if config, err = s.build(store, from); err == nil {
			serial := 1
			if s.current != nil {
				serial = s.current.serial + 1
			}
			s.current, s.complaint = &made{from, config, serial}, ""
		}
	}
	switch {
	case s.current == nil:
		return nil, "", &Missing{err}
	case err != nil && err.Error() != s.complaint:
		s.complaint = err.Error()
		store.cfg.Logger.Warn("TLS settings not changed: what is in the files cannot be used, the last good ones stay", "error", err)
	}
	return s.current.config, strconv.Itoa(s.current.serial), nil
}

// read returns what is in the files that the settings name.
func (s *settings) read(store *Store) (from [3]*content, err error) {
	if s.tls == nil {
		return from, nil
	}
	for i, path := range [...]string{s.tls.Authorities.File, s.tls.Certificate.File, s.tls.PrivateKey.File} {
		if path == "" {
			continue
		}
		if from[i], err = store.files.read(path); err != nil {
			return from, err
		}
	}
	return from, nil
}

func (s *settings) build(store *Store, from [3]*content) (*tls.Config, error) {
	config := &tls.Config{ServerName: s.host, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
	if s.tls == nil {
		return config, nil
	}
	if s.tls.ServerName != "" {
		config.ServerName = s.tls.ServerName
	}
	if s.tls.MinVersion != 0 {
		config.MinVersion = s.tls.MinVersion
	}
	if s.tls.Authorities != (credential.Document{}) {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text(s.tls.Authorities, from[0])) {
			return nil, errors.New("certificate authorities: no certificate in them")
		}
	}
	if s.tls.Certificate == (credential.Document{}) {
		return config, nil
	}
	key := s.tls.PrivateKey.Inline
	if from[2] != nil {
		key = credential.NewSecret(string(from[2].data))
	} else if s.tls.PrivateKey.Env != "" {
		var err error
		if key, err = store.secret(s.tls.PrivateKey); err != nil {
			return nil, err
		}
	}
	pair, err := tls.X509KeyPair(text(s.tls.Certificate, from[1]), []byte(key.Reveal()))
	if err != nil {
		return nil, fmt.Errorf("client certificate: %w", err)
	}
	config.Certificates = []tls.Certificate{pair}
	return config, nil
}

func text(d credential.Document, from *content) []byte {
	if from != nil {
		return from.data
	}
	return []byte(d.Inline)
}
