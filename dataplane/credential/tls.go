package credential

import (
	"crypto/tls"
	"fmt"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// TLS says how an upstream or a token endpoint is spoken TLS to. A nil one, and the
// zero value, mean the system's authorities and TLS 1.2.
type TLS struct {
	Authorities Document // the zero value means the system's
	Certificate Document // the zero value means none
	PrivateKey  Value    // of the certificate
	ServerName  string   // empty means the URL's host
	MinVersion  uint16   // as in package tls; 0 means TLS 1.2
}

// Document is PEM that is no secret, or the file where it is. The zero value is
// neither.
type Document struct{ Inline, File string }

// CompileTLS makes settings of their definition; nil of none. An error is a
// FieldError, or about the whole.
func CompileTLS(t *leaseholdv1.UpstreamTLS) (*TLS, error) {
	if t == nil {
		return nil, nil
	}
	if len(t.ProtoReflect().GetUnknown()) > 0 {
		return nil, errUnknown
	}
	own := &TLS{
		Authorities: Document{t.GetCaPem(), t.GetCaFile()}, Certificate: Document{t.GetCertificatePem(), t.GetCertificateFile()},
		ServerName: t.GetServerName(),
	}
	if own.Certificate != (Document{}) {
		var err error
		if own.PrivateKey, err = compileValue(t.GetPrivateKey()); err != nil {
			return nil, At("private_key", err)
		}
	}
	switch t.GetMinVersion() {
	case leaseholdv1.TLSVersion_TLS_VERSION_UNSPECIFIED, leaseholdv1.TLSVersion_TLS_VERSION_1_2:
	case leaseholdv1.TLSVersion_TLS_VERSION_1_3:
		own.MinVersion = tls.VersionTLS13
	default:
		return nil, At("min_version", fmt.Errorf("%d is not known", t.GetMinVersion()))
	}
	return own, nil
}

// AppendSources appends what makes these settings others than others, as those of a
// Credential do.
func (t *TLS) AppendSources(b []byte) []byte {
	if t == nil || *t == (TLS{}) {
		return b
	}
	return t.PrivateKey.appendSource(fmt.Appendf(b, "\x00tls %q %q %q %d", t.Authorities, t.Certificate, t.ServerName, t.MinVersion))
}
