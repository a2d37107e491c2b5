package controlplane_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// tooLate is beyond all that a machine which is busy with other things explains. What is
// promised is a second.
const tooLate = 5 * time.Second

// labelled is a gateway of about 8 KiB.
func labelled(id, text string) *leaseholdv1.Gateway {
	g := counter(id)
	g.Labels = map[string]string{"change": text}
	for i := range 31 {
		g.Labels[fmt.Sprint("l", i)] = strings.Repeat("x", 255)
	}
	return g
}

func TestTwentyStreamsApplyAChangeAndOneThatDoesNotReadIsBroughtToTheNewest(t *testing.T) {
	const streams, changes = 20, 200
	r := start(t, patient(embedded(t)))
	r.create(t, labelled("g", "0"))
	var all []*watching
	for i := range streams {
		all = append(all, r.joined(t, fmt.Sprintf("%016x", i+1)))
	}
	slow := r.joined(t, "00000000000000ff")
	slow.next()
	has := func(text string) func(*leaseholdv1.WatchResponse) bool {
		return func(resp *leaseholdv1.WatchResponse) bool {
			for _, g := range resp.Gateways {
				if g.Labels["change"] == text {
					return true
				}
			}
			return false
		}
	}
	// change writes, and returns how long it took until every stream had acknowledged it.
	change := func(text string) time.Duration {
		began := time.Now()
		var told sync.WaitGroup
		for _, w := range all {
			told.Go(func() { w.ack(w.until(has(text)).Revision) })
		}
		update, err := r.gateways.UpdateGateway(testContext(t), &leaseholdv1.UpdateGatewayRequest{Gateway: labelled("g", text)})
		if err != nil {
			t.Fatal(err)
		}
		told.Wait()
		eventually(t, "all have acknowledged it", func() bool {
			got, err := r.gateways.GetGateway(testContext(t), &leaseholdv1.GetGatewayRequest{Name: update.Gateway.Name})
			if err != nil {
				t.Fatal(err)
			}
			return got.Gateway.Status.WorkersApplied >= streams
		})
		return time.Since(began)
	}
	var longest time.Duration
	for i := range 5 {
		longest = max(longest, change(fmt.Sprint(i+1)))
	}
	t.Logf("%d streams had acknowledged a change %v after it was begun to be written, at the longest", streams, longest.Round(time.Millisecond))
	if longest > tooLate {
		t.Errorf("a change took %v, want a second", longest)
	}
	// The workers that read are not needed any more; the slow one has not read meanwhile.
	for i := range changes {
		if _, err := r.gateways.UpdateGateway(testContext(t), &leaseholdv1.UpdateGatewayRequest{Gateway: labelled("g", fmt.Sprint("later ", i))}); err != nil {
			t.Fatal(err)
		}
	}
	messages := 0
	slow.until(func(resp *leaseholdv1.WatchResponse) bool {
		messages++
		return has(fmt.Sprint("later ", changes-1))(resp)
	})
	t.Logf("the stream that did not read was told of %d changes in %d messages", changes+5, messages)
	if messages > changes/2 {
		t.Errorf("%d messages were kept for a stream that did not read, want it to be brought to the newest in one step", messages)
	}
}
