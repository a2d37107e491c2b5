package admin

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestReadyOnlyWhenAllPartsAre(t *testing.T) {
	health := &Health{}
	worker, control := health.Part("worker"), health.Part("control")
	url := serve(t, health)
	expect(t, url+"/livez", 200, "ok")
	expect(t, url+"/readyz", 503, "worker: starting")
	worker(nil)
	expect(t, url+"/readyz", 503, "control: starting")
	control(nil)
	expect(t, url+"/readyz", 200, "ok")
	worker(errors.New("lease lost"))
	expect(t, url+"/readyz", 503, "not ready: worker: lease lost")
	expect(t, url+"/livez", 200, "ok")
	expect(t, url+"/metrics", 200, "go_goroutines")
	expect(t, url+"/metrics", 200, "process_cpu_seconds_total")
}

func TestAnAlarmIsToldAndLeavesTheProcessReady(t *testing.T) {
	health := &Health{}
	health.Part("worker")(nil)
	url := serve(t, health)
	health.Alarm("etcd", errors.New("no space left"))
	expect(t, url+"/readyz", 200, "ok\nalarm: etcd: no space left\n")
	health.Alarm("etcd", nil)
	expect(t, url+"/readyz", 200, "ok\n")
}

func serve(t *testing.T, health *Health) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, listener, health, NewRegistry(), hclog.NewNullLogger()) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: got %v, want nil after the context's end", err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return "http://" + listener.Addr().String()
}

func expect(t *testing.T, url string, status int, part string) {
	t.Helper()
	response, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != status || !strings.Contains(string(body), part) {
		t.Errorf("%s: got %d %q, want %d with %q", url, response.StatusCode, body[:min(len(body), 200)], status, part)
	}
}
