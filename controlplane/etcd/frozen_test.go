package etcd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/leasehold/leasehold/controlplane/session"
)

// memberEnv makes the test binary a member of an etcd cluster: its value is the
// member's name, directory, client URL, peer URL and the cluster.
const memberEnv = "LEASEHOLD_TEST_ETCD_MEMBER"

// runMember serves until standard input is closed.
func runMember(text string) int {
	part := strings.Split(text, " ")
	server, err := StartServer(context.Background(), ServerConfig{Name: part[0], Dir: part[1], ClientURL: part[2], PeerURL: part[3], Cluster: part[4]})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	server.Close()
	return 0
}

// process is a member of an etcd cluster in a process of its own, which can be
// stopped as a machine can be.
type process struct {
	cmd *exec.Cmd
	url string
}

func (p *process) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// startCluster starts three members.
func startCluster(t testing.TB) []*process {
	t.Helper()
	const size = 3
	names, clients, peers, all := make([]string, size), make([]string, size), make([]string, size), make([]string, size)
	for i := range size {
		names[i], clients[i], peers[i] = fmt.Sprintf("m%d", i), freeURL(t), freeURL(t)
		all[i] = names[i] + "=" + peers[i]
	}
	members, outputs := make([]*process, size), make([]*bufio.Scanner, size)
	for i := range size {
		cmd := exec.Command(os.Args[0])
		text := []string{names[i], filepath.Join(t.TempDir(), names[i]), clients[i], peers[i], strings.Join(all, ",")}
		cmd.Env = append(os.Environ(), memberEnv+"="+strings.Join(text, " "))
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			in.Close()
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		members[i], outputs[i] = &process{cmd: cmd, url: clients[i]}, bufio.NewScanner(out)
	}
	for i, out := range outputs {
		if !out.Scan() || out.Text() != "ready" {
			t.Fatalf("member %d said %q, want ready", i, out.Text())
		}
	}
	return members
}

func urls(members []*process) []string {
	list := make([]string, len(members))
	for i, m := range members {
		list[i] = m.url
	}
	return list
}

// leader returns which of the members leads.
func leader(t testing.TB, s *Store, members []*process) int {
	t.Helper()
	for i, m := range members {
		if st, err := s.client.Status(testContext(t), m.url); err == nil && st.Header.MemberId == st.Leader {
			return i
		}
	}
	t.Fatal("nobody leads")
	return 0
}

// openAt opens a store on a cluster and runs it for the test.
func openAt(t testing.TB, endpoints []string, ttl time.Duration, metrics prometheus.Registerer) *Store {
	t.Helper()
	s, err := Open(ClientConfig{Endpoints: endpoints, LeaseTTL: ttl, Metrics: metrics})
	if err != nil {
		t.Fatal(err)
	}
	runStore(t, s)
	return s
}

// claimGap claims sessions one after the other until stop is closed, and returns
// the longest time between two that were granted, and how many were.
func claimGap(t testing.TB, s *Store, w alive, stop <-chan struct{}) (longest time.Duration, granted int) {
	for last := time.Now(); ; {
		select {
		case <-stop:
			return max(longest, time.Since(last)), granted
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		_, err := s.Claim(ctx, newSession(), w.record())
		cancel()
		if err != nil {
			t.Logf("claim: %v, %s after the last", err, time.Since(last))
			continue
		}
		longest, last, granted = max(longest, time.Since(last)), time.Now(), granted+1
	}
}

const (
	// maxGap is how long nothing can be claimed at most when a member of etcd stops.
	maxGap = 2500 * time.Millisecond
	// busy is what a machine may add to that which runs other tests meanwhile.
	busy = 1500 * time.Millisecond
)

func TestFrozenMemberCostsClaimsLittle(t *testing.T) {
	members := startCluster(t)
	for _, who := range []string{"leader", "follower", "leader again"} {
		t.Run(who, func(t *testing.T) {
			s := openAt(t, urls(members), testTTL, nil)
			w := register(t, s)
			which := leader(t, s, members)
			if who == "follower" {
				which = (which + 1) % len(members)
			}
			stop := make(chan struct{})
			members[which].signal(t, syscall.SIGSTOP)
			time.AfterFunc(2*maxGap, func() { close(stop) })
			gap, granted := claimGap(t, s, w, stop)
			members[which].signal(t, syscall.SIGCONT)
			t.Logf("longest gap %s, %d claims", gap, granted)
			if gap > maxGap+busy || granted == 0 {
				t.Errorf("with a frozen %s nothing could be claimed for %s (%d granted), want at most %s", who, gap, granted, maxGap)
			}
			waitForLeader(t, s, members)
		})
	}
}

// renewals renews w's lease as workers do: every sixth of the TTL, each attempt
// with a deadline of its own and at the next store when one fails. It returns
// the longest time between two renewals, counted from when they were sent.
func renewals(w alive, stores []*Store, ttl time.Duration, stop <-chan struct{}) (longest time.Duration, err error) {
	last, next := time.Now(), 0
	for tick := time.NewTicker(ttl / 6); ; {
		for granted := false; !granted; next++ {
			select {
			case <-stop:
				return max(longest, time.Since(last)), nil
			default:
			}
			sent := time.Now()
			ctx, cancel := context.WithTimeout(context.Background(), ttl*12/100)
			_, err := stores[next%len(stores)].Renew(ctx, w.id, w.incarnation, w.lease)
			cancel()
			if errors.Is(err, session.ErrLeaseLost) {
				return time.Since(last), err
			}
			if granted = err == nil; granted {
				longest, last = max(longest, sent.Sub(last)), sent
				next--
			}
		}
		<-tick.C
	}
}

// A worker that can reach the control plane keeps its lease while a member of
// etcd is stopped, and its authority, which ends a quarter of the TTL earlier.
func TestFrozenMemberCostsNoWorkerItsLease(t *testing.T) {
	const ttl = 6 * time.Second
	members := startCluster(t)
	var stores []*Store
	for range 3 {
		stores = append(stores, openAt(t, urls(members), ttl, nil))
	}
	stop := make(chan struct{})
	time.AfterFunc(21*time.Second, func() { close(stop) })
	frozen := members[leader(t, stores[0], members)]
	var group sync.WaitGroup
	for name, replicas := range map[string][]*Store{"one replica": stores[:1], "two replicas": stores[1:]} {
		w := register(t, replicas[0])
		group.Go(func() {
			longest, err := renewals(w, replicas, ttl, stop)
			t.Logf("%s: at most %s between renewals", name, longest)
			if err != nil || longest >= ttl*3/4 {
				t.Errorf("%s: %s between renewals, %v; want less than %s", name, longest, err, ttl*3/4)
			}
		})
	}
	frozen.signal(t, syscall.SIGSTOP)
	group.Wait()
	frozen.signal(t, syscall.SIGCONT)
}

// waitForLeader waits until all members follow one leader.
func waitForLeader(t testing.TB, s *Store, members []*process) {
	t.Helper()
	waitFor(t, func() bool {
		var lead uint64
		for _, m := range members {
			ctx, cancel := context.WithTimeout(testContext(t), time.Second)
			st, err := s.client.Status(ctx, m.url)
			cancel()
			if err != nil || st.Leader == 0 || lead != 0 && st.Leader != lead {
				return false
			}
			lead = st.Leader
		}
		return true
	})
}
