package etcd

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/zap"

	"github.com/leasehold/leasehold/controlplane/store"
)

// freeURL is a loopback URL whose port nobody listens on.
func freeURL(t testing.TB) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	return "http://" + lis.Addr().String()
}

func TestServerIsReadyInWellUnderASecondAndKeepsItsData(t *testing.T) {
	cfg := ServerConfig{Dir: t.TempDir()}
	for round := range 2 {
		began := time.Now()
		server, err := StartServer(testContext(t), cfg)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 900*time.Millisecond {
			t.Errorf("round %d: ready after %s", round, took)
		}
		s, err := Open(ClientConfig{Endpoints: server.Endpoints(), LeaseTTL: testTTL})
		if err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			define(t, s, "kept")
		} else if _, err := s.GetGateway(testContext(t), "kept"); err != nil {
			t.Errorf("after the restart: %v", err)
		}
		s.Close()
		server.Close()
	}
}

func TestSecondServerOnTheSameDirFails(t *testing.T) {
	dir := t.TempDir()
	server, err := StartServer(testContext(t), ServerConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	failed := make(chan error, 1)
	go func() {
		second, err := StartServer(testContext(t), ServerConfig{Dir: dir})
		if err == nil {
			second.Close()
		}
		failed <- err
	}()
	select {
	case err := <-failed:
		if err == nil {
			t.Error("two servers run on one directory")
		}
	case <-testContext(t).Done():
		t.Error("the second server neither starts nor fails")
	}
}

func TestOneOfThreeMembersMayGo(t *testing.T) {
	var cluster, endpoints []string
	configs := make([]ServerConfig, 3)
	for i := range configs {
		configs[i] = ServerConfig{Dir: t.TempDir(), Name: fmt.Sprintf("m%d", i), PeerURL: freeURL(t), ClientURL: freeURL(t)}
		cluster = append(cluster, configs[i].Name+"="+configs[i].PeerURL)
		endpoints = append(endpoints, configs[i].ClientURL)
	}
	servers, errs := make([]*Server, 3), make([]error, 3)
	ctx := testContext(t)
	var group sync.WaitGroup
	for i, cfg := range configs {
		cfg.Cluster = strings.Join(cluster, ",")
		group.Go(func() { servers[i], errs[i] = StartServer(ctx, cfg) })
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	s, err := Open(ClientConfig{Endpoints: endpoints, LeaseTTL: testTTL})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	w := register(t, s)
	servers[0].Close()
	waitFor(t, func() bool {
		_, err := s.Renew(ctx, w.id, w.incarnation, w.lease)
		return err == nil
	})
	servers[1].Close()
	servers[2].Close()
}

func TestFollowSaysThatEtcdIsAwayAndThatItIsBack(t *testing.T) {
	cfg := ServerConfig{Dir: t.TempDir(), ClientURL: freeURL(t)}
	server, err := StartServer(testContext(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(ClientConfig{Endpoints: server.Endpoints(), LeaseTTL: testTTL})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.reread, s.patience = 100*time.Millisecond, 100*time.Millisecond
	f := follow(t, s)
	server.Close()
	waitFor(t, func() bool { return f.lastLost() != nil })
	if err := f.lastLost(); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("lost because %v, want ErrUnavailable", err)
	}
	if server, err = StartServer(testContext(t), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	waitFor(t, func() bool {
		_, err := s.Members(testContext(t))
		return err == nil
	})
	define(t, s, "after")
	waitFor(t, func() bool { return f.last().Gateways.Entries["after"] != nil })
}

func TestAnEtcdThatFallsSilentUnderAWatchIsMissedBeforeEverythingIsReadAgain(t *testing.T) {
	cfg := ServerConfig{Dir: t.TempDir(), ClientURL: freeURL(t)}
	server, err := StartServer(testContext(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(ClientConfig{Endpoints: server.Endpoints(), LeaseTTL: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	runStore(t, s)
	f := follow(t, s)
	define(t, s, "before")
	waitFor(t, func() bool { return f.last().Gateways.Entries["before"] != nil })
	server.Close()
	waitFor(t, func() bool { return f.lastLost() != nil }) // which waits for less than until it is read again
	if server, err = StartServer(testContext(t), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	waitFor(t, func() bool {
		_, err := s.Members(testContext(t))
		return err == nil
	})
	define(t, s, "after")
	waitFor(t, func() bool { return f.last().Gateways.Entries["after"] != nil })
}

func TestZapBridgePassesWarningsWithTheirFields(t *testing.T) {
	var out strings.Builder
	log := zapLogger(hclog.New(&hclog.LoggerOptions{Output: &out, Level: hclog.Debug}))
	log.Info("chatter")
	log.With(zap.String("member", "m1")).Warn("slow disk", zap.Int("took", 7))
	log.Error("lost", zap.Error(errors.New("gone")))
	text := out.String()
	if strings.Contains(text, "chatter") {
		t.Errorf("etcd's chatter is logged: %s", text)
	}
	for _, want := range []string{"[WARN]", "slow disk", "member=m1", "took=7", "[ERROR]", "error=gone"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in %s", want, text)
		}
	}
}
