package logs

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestSlogArrivesInTheLog(t *testing.T) {
	var out bytes.Buffer
	logger := Slog(New(&out, "info", "json"))
	logger.Debug("too little")
	logger.With("session", "s1").WithGroup("http").Warn("odd answer", "status", 500, slog.Group("peer", "port", 80))
	got := out.String()
	for _, want := range []string{`"@level":"warn"`, `"@message":"odd answer"`, `"session":"s1"`, `"http.status":500`, `"http.peer.port":80`} {
		if !strings.Contains(got, want) {
			t.Errorf("log lacks %s: %s", want, got)
		}
	}
	if strings.Contains(got, "too little") {
		t.Errorf("debug message was logged at level info: %s", got)
	}
}

func TestOffLogsNothing(t *testing.T) {
	var out bytes.Buffer
	logger := New(&out, "off", "text")
	logger.Error("x")
	Slog(logger).Error("x")
	if out.Len() > 0 {
		t.Errorf("got %q, want nothing", out.String())
	}
}
