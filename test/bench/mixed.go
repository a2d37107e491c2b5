package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// longCalls is how many long calls there are at a time.
	longCalls = 50
	// shortRate is how many short calls are made each second meanwhile.
	shortRate = 500
	// aloneTime is how long the short calls are measured without long ones, at most.
	aloneTime = 10 * time.Second
	// progressPause is how often a long call reports progress.
	progressPause = 500 * time.Millisecond
)

// longCaller is a client that makes long calls.
type longCaller struct{ *caller }

// call makes a long call, and checks that there were reports and a result.
func (l longCaller) call() error {
	if err := l.exchange(l.request.next()); err != nil {
		return err
	}
	last := bytes.LastIndex(l.body, []byte("data: "))
	if l.status != 200 || last <= 0 || !bytes.Contains(l.body[last:], l.request.digits()) || !bytes.Contains(l.body[last:], []byte(`"result"`)) {
		return fmt.Errorf("a long call was answered with status %d and body %.300q", l.status, l.body)
	}
	return nil
}

// mixedSection measures short calls that are forwarded to an owner, alone and
// beside long calls at that owner.
func (b *bench) mixedSection(ctx context.Context) error {
	if len(b.paths(pathForward)) == 0 {
		return nil
	}
	alone, err := b.shortCalls(ctx, 0, min(aloneTime, b.long))
	if err != nil {
		return err
	}
	long, err := b.startLong()
	if err != nil {
		return err
	}
	beside, err := b.shortCalls(ctx, longCalls, b.long)
	if err = errors.Join(err, long()); err != nil {
		return err
	}
	alone[figureTimes], beside[figureTimes] = 1, beside[figureP99]/alone[figureP99]
	for i, v := range []values{alone, beside} {
		n := i * longCalls
		row := b.result.row(sectionMixed, pathForward, n)
		row.Rounds = append(row.Rounds, v)
		fmt.Fprintf(os.Stderr, "%-8s %2d long calls, %-7s %8.0f/s, p99 %.3f ms\n", sectionMixed, n, pathForward, v[figureRate], v[figureP99])
	}
	return nil
}

// startLong begins long calls at the owner. The function that it returns waits for
// them.
func (b *bench) startLong() (wait func() error, err error) {
	callers := b.callers(pathOwner, longCalls, toolLong+b.long.String())
	if err := connectAll(callers); err != nil {
		return nil, err
	}
	errs := make([]error, longCalls)
	var group sync.WaitGroup
	for i, c := range callers {
		c.limit(time.Now().Add(b.long + answerLimit))
		group.Go(func() { errs[i] = longCaller{c}.call() })
	}
	return func() error {
		group.Wait()
		disconnectAll(callers)
		return errors.Join(errs...)
	}, nil
}

// shortCalls measures short calls in an open loop, beside n long ones.
func (b *bench) shortCalls(ctx context.Context, n int, d time.Duration) (values, error) {
	callers := b.callers(pathForward, openClients, toolEcho)
	if err := connectAll(callers); err != nil {
		return nil, err
	}
	defer disconnectAll(callers)
	if _, err := drive(callers, b.warmup); err != nil {
		return nil, err
	}
	calls := make([]func() error, len(callers))
	for i, c := range callers {
		c.limit(time.Now().Add(d + answerLimit))
		calls[i] = c.call
	}
	v, err := b.meter(sectionMixed, pathForward, n, func() ([]time.Duration, time.Duration, error) {
		start := time.Now()
		latencies, err := openLoop(calls, time.Second/shortRate, int(d*shortRate/time.Second))
		return latencies, time.Since(start), err
	})
	return v, errors.Join(err, ctx.Err())
}

// answerLong writes a stream of reports and then the result.
func answerLong(conn net.Conn, out, id []byte, d time.Duration) ([]byte, error) {
	over := time.Now().Add(d)
	out = appendFirstEvent(out)
	pause := rand.N(progressPause) // calls that began together need not report together
	for {
		if _, err := conn.Write(out); err != nil {
			return out, err
		}
		left := time.Until(over)
		if left <= 0 {
			break
		}
		time.Sleep(min(left, pause))
		pause = progressPause
		out = appendProgress(out[:0])
	}
	out = appendLastEvent(out[:0], id)
	_, err := conn.Write(out)
	return out, err
}
