package dataplane_test

import (
	"errors"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/leasehold/leasehold/dataplane"
	"github.com/leasehold/leasehold/dataplane/config"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// crashVariable has this binary run TestWorkerThatIsPoisoned against the control plane
// that it names, in a data directory.
const crashVariable = "LEASEHOLD_TEST_CRASH"

// TestWorkerThatIsPoisoned is the child process of the test below: a worker that panics, in
// a goroutine of its own, once it serves the definition whose description is poison.
func TestWorkerThatIsPoisoned(t *testing.T) {
	control, dir, ok := strings.Cut(os.Getenv(crashVariable), " ")
	if !ok {
		return // not the child
	}
	file, err := os.Create(filepath.Join(dir, "crash"))
	if err != nil {
		t.Fatal(err)
	}
	if err := debug.SetCrashOutput(file, debug.CrashOptions{}); err != nil {
		t.Fatal(err)
	}
	startWorkerWith(t, &plane{address: control}, func(cfg *dataplane.Config) {
		cfg.DataDir = dir
		cfg.SetApplied(func(s *config.Snapshot) {
			if g := s.Gateways["g"]; g != nil && strings.HasSuffix(g.Upstream.URL.Path, "/poison") {
				go panic("poison")
			}
		})
	})
	<-time.After(time.Minute) // for the definition
}

func TestADefinitionThatCrashesAWorkerCrashesItOnce(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	p.setGateway("other", u.URL, nil)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	startWorkerWith(t, p, func(cfg *dataplane.Config) { cfg.DataDir = dir }).stop() // what it served is known to be good
	child := exec.CommandContext(t.Context(), self, "-test.run=^TestWorkerThatIsPoisoned$")
	child.Env = append(os.Environ(), crashVariable+"="+p.address+" "+dir)
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	eventually(t, "the worker is there", func() bool { return p.count("Watch") == 2 })
	p.setGateway("g", u.URL+"/poison", nil)
	select {
	case err := <-ended:
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
			t.Fatalf("the worker ended with %v, want a crash", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the worker did not crash")
	}
	crash, err := os.ReadFile(filepath.Join(dir, "crash"))
	if err != nil || !strings.Contains(string(crash), "poison") {
		t.Fatalf("crash output: got %q, %v", crash, err)
	}
	p.change(func() { p.members = map[string]*leaseholdv1.Member{} })
	w := startWorkerWith(t, p, func(cfg *dataplane.Config) {
		cfg.DataDir, cfg.Crash = dir, string(crash)
		cfg.SetApplied(func(s *config.Snapshot) {
			if g := s.Gateways["g"]; g != nil && strings.HasSuffix(g.Upstream.URL.Path, "/poison") {
				t.Error("the definition is applied again")
			}
		})
	})
	eventually(t, "it says that it rejects the definition", func() bool { return len(p.rejected()) == 1 })
	if r := p.rejected()[0]; r.GetGateway() != "gateways/g" || !r.GetQuarantined() || r.GetRevision() != p.revisionOf("g") || r.GetError().GetReason() == "" {
		t.Errorf("got %v, want the definition quarantined", r)
	}
	for _, gateway := range []string{"g", "other"} {
		c := newClient(t, gateway)
		c.initialize(w)
		if status, got := c.call(w); status != http.StatusOK {
			t.Errorf("%s: got %d %s, want it served", gateway, status, got)
		}
	}
	p.setGateway("g", u.URL+"/mended", nil)
	eventually(t, "a new definition is applied", func() bool { return len(p.rejected()) == 0 })
}

func TestABadDefinitionIsRejectedAndTheOthersApply(t *testing.T) {
	p, u := startPlane(t), startUpstream(t)
	p.setGateway("g", u.URL, nil)
	w := startWorker(t, p)
	c := newClient(t, "g")
	c.initialize(w)
	p.setGateway("g", "no url", nil)
	p.setGateway("other", u.URL, nil)
	eventually(t, "it is rejected", func() bool { return len(p.rejected()) == 1 && p.acknowledged() >= p.revisionOf("other") })
	if r := p.rejected()[0]; r.GetError().GetField() != "upstreams[0].url" || r.GetQuarantined() || r.GetServingRevision() == 0 {
		t.Errorf("got %v, want the field and what is served", r)
	}
	if status, got := c.call(w); status != http.StatusOK {
		t.Errorf("session of the rejected gateway: got %d %s, want the last good definition to serve on", status, got)
	}
	newClient(t, "other").initialize(w)
	p.setGateway("g", u.URL, nil)
	eventually(t, "it is mended", func() bool { return len(p.rejected()) == 0 })
	if status, got := c.call(w); status != http.StatusOK {
		t.Errorf("session after the same connection again: got %d %s, want 200", status, got)
	}
}

// received reads the acknowledgements of a worker's stream until it ends.
func (p *plane) received(stream leaseholdv1.ControlService_WatchServer) {
	for {
		ack, err := stream.Recv()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.ack = ack
		p.mu.Unlock()
	}
}

// acknowledged is the revision in the last acknowledgement.
func (p *plane) acknowledged() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ack.GetAppliedRevision()
}

// rejected are the rejections in the last acknowledgement.
func (p *plane) rejected() []*leaseholdv1.Rejection {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ack.GetRejections()
}

// revisionOf is the revision of a gateway's definition.
func (p *plane) revisionOf(id string) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gateways["gateways/"+id].GetStatus().GetRevision()
}
