package signals

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// os/signal keeps one goroutine for the life of the process.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("os/signal.loop"), goleak.IgnoreTopFunction("os/signal.signal_recv"))
}

func TestFirstSignalStopsAndSecondExits(t *testing.T) {
	exited := make(chan int, 1)
	ctx, release := Context(t.Context(), func(code int) { exited <- code })
	defer release()
	raise(t)
	wait(t, ctx.Done(), "the first signal to end the context")
	if cause := context.Cause(ctx); !errors.Is(cause, ErrStopped) {
		t.Errorf("cause: got %v, want ErrStopped", cause)
	}
	select {
	case code := <-exited:
		t.Fatalf("exit(%d) at the first signal", code)
	default:
	}
	raise(t)
	select {
	case code := <-exited:
		if code != 130 {
			t.Errorf("exit code: got %d, want 130", code)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no exit at the second signal")
	}
}

func raise(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
}

func wait(t *testing.T, done <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatalf("waited too long for %s", what)
	}
}
