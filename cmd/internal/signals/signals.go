// Package signals ends a daemon: the first interrupt or termination asks it to
// stop, the second one stops it at once.
package signals

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
)

// ErrStopped is the cause of a context that a signal ended.
var ErrStopped = errors.New("stopped by a signal")

// Context returns a context that ends, with ErrStopped, at the first SIGINT or
// SIGTERM. At the second one exit is called, with 130. The function returned
// gives the signals back and waits until nobody listens for them any more.
func Context(parent context.Context, exit func(int)) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	arrived := make(chan os.Signal, 2)
	signal.Notify(arrived, os.Interrupt, syscall.SIGTERM)
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			case <-arrived:
			}
			if n > 0 {
				exit(130)
				return
			}
			cancel(ErrStopped)
		}
	}()
	return ctx, func() {
		signal.Stop(arrived)
		close(done)
		<-ended
		cancel(nil)
	}
}
