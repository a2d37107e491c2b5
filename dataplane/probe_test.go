package dataplane

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

func TestAnHTTPServerThatSaysAnythingIsAlive(t *testing.T) {
	for what, change := range map[string]func(*httptest.Server){
		"plain": func(s *httptest.Server) { s.Start() },
		"TLS":   func(s *httptest.Server) { s.StartTLS() },
		"TLS that wants a certificate": func(s *httptest.Server) {
			s.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert}
			s.StartTLS()
		},
	} {
		s := httptest.NewUnstartedServer(http.NotFoundHandler())
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		change(s)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if err := probeHTTP(ctx, s.Listener.Addr(), s.TLS != nil); err != nil {
			t.Errorf("%s: got %v, want nil", what, err)
		}
		cancel()
		s.Close()
	}
}

func TestAListenerThatAcceptsNothingFailsItsProbeInTime(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, secure := range []bool{false, true} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if err := probeHTTP(ctx, l.Addr(), secure); err == nil {
			t.Errorf("TLS %v: got nil, want an error", secure)
		}
		cancel()
	}
}
