package config

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/proto"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

func newDisk(t testing.TB) *Disk {
	t.Helper()
	return NewDisk(t.TempDir(), hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: t.Output()}))
}

func (d *Disk) path(name string) string { return filepath.Join(d.dir, name) }

func stateAt(revision int64) *State {
	return &State{
		Revision: revision, TTL: 6 * time.Second, MaxOutage: 10 * time.Minute,
		Gateways: map[string]*leaseholdv1.Gateway{
			"gateways/a": {Name: "gateways/a", Upstreams: []*leaseholdv1.Upstream{{Name: "up", Url: "http://a", Env: map[string]string{"TOKEN": "secret"}}}},
			"gateways/b": {Name: "gateways/b", Status: &leaseholdv1.GatewayStatus{Revision: revision}},
		},
		Members: []*leaseholdv1.Member{{Worker: "w", Incarnation: 3, Info: &leaseholdv1.WorkerInfo{PeerAddress: "10.0.0.1:1"}}},
		KeyRing: &leaseholdv1.KeyRing{Keys: []*leaseholdv1.Key{{Id: []byte("key1"), Secret: bytes.Repeat([]byte{7}, 32)}}},
		Endings: []*leaseholdv1.Ending{{Gateway: "a", Session: strings.Repeat("0", 32)}},
		Earlier: map[string]*leaseholdv1.Gateway{"gateways/b": {Name: "gateways/b", Description: "before"}},
	}
}

// same reports whether two states say the same.
func same(a, b *State) bool {
	at := time.Unix(1, 0)
	x, y := &leaseholdv1.WatchResponse{}, &leaseholdv1.WatchResponse{}
	for s, into := range map[*State]*leaseholdv1.WatchResponse{a: x, b: y} {
		content, err := encode(s, at)
		if err != nil || proto.Unmarshal(content[times:], into) != nil {
			return false
		}
	}
	gateways := func(m *leaseholdv1.WatchResponse) map[string]string {
		all := map[string]string{}
		for _, g := range m.GetGateways() {
			all[g.GetName()] += fmt.Sprint(g) // the earlier one comes first
		}
		m.Gateways = nil
		return all
	}
	return a.TTL == b.TTL && a.MaxOutage == b.MaxOutage && fmt.Sprint(gateways(x)) == fmt.Sprint(gateways(y)) && proto.Equal(x, y)
}

func TestAStateThatWasKeptIsLoadedAsItWas(t *testing.T) {
	d := newDisk(t)
	if _, _, err := d.Load(); !errors.Is(err, ErrNotKept) {
		t.Errorf("empty directory: got %v, want ErrNotKept", err)
	}
	written := time.Unix(1_700_000_000, 5)
	for revision := range int64(3) {
		if err := d.save(stateAt(revision+1), written); err != nil {
			t.Fatal(err)
		}
	}
	got, at, err := d.Load()
	if err != nil || !same(got, stateAt(3)) || !at.Equal(written) {
		t.Errorf("got %+v of %v, %v; want the state of revision 3 of %v", got, at, err, written)
	}
	for _, name := range []string{stateFile, keyFile} {
		info, err := os.Stat(d.path(name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: got mode %v, %v; want 0600", name, info.Mode(), err)
		}
		content, _ := os.ReadFile(d.path(name))
		if bytes.Contains(content, []byte("secret")) || bytes.Contains(content, bytes.Repeat([]byte{7}, 32)) {
			t.Errorf("%s can be read without the key", name)
		}
	}
}

func TestAFileThatWasChangedIsNoState(t *testing.T) {
	d := newDisk(t)
	if err := d.save(stateAt(1), time.Now()); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(d.path(stateFile))
	if err != nil {
		t.Fatal(err)
	}
	refuses := func(what string, file []byte) {
		t.Helper()
		if err := os.WriteFile(d.path(stateFile), file, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, _, err := d.Load(); err == nil || errors.Is(err, ErrNotKept) || s != nil {
			t.Errorf("%s: got %v, %v; want an error that says what is wrong", what, s, err)
		}
	}
	for i := range whole {
		changed := bytes.Clone(whole)
		changed[i] ^= 1
		refuses(fmt.Sprintf("byte %d is another", i), changed)
		refuses(fmt.Sprintf("cut off after %d bytes", i), whole[:i])
	}
	refuses("longer", append(bytes.Clone(whole), 0))
	refuses("twice", append(bytes.Clone(whole), whole...))
	refuses("of a later format", bytes.Replace(whole, head, fmt.Appendf(nil, "%s%d\n", stateHead, format+1), 1))
	if _, _, err := d.Load(); !strings.Contains(err.Error(), `format "2", this worker reads 1`) {
		t.Errorf("of a later format: got %v, want an error that names both", err)
	}
	other := newDisk(t)
	if err := other.save(stateAt(1), time.Now()); err != nil {
		t.Fatal(err)
	}
	foreign, err := os.ReadFile(other.path(stateFile))
	if err != nil {
		t.Fatal(err)
	}
	refuses("of another directory", foreign)
	if err := os.Truncate(d.path(stateFile), maxStateFile+1); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.Load(); err == nil || !strings.Contains(err.Error(), fmt.Sprint(maxStateFile)) {
		t.Errorf("too large: got %v, want an error that names the bound of %d", err, maxStateFile)
	}
}

func TestAStateOpensInItsOwnPlaceOnly(t *testing.T) {
	d := newDisk(t)
	key, err := d.key()
	if err != nil {
		t.Fatal(err)
	}
	content, err := encode(stateAt(1), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	sealer := newSealer(key)
	nonce := make([]byte, sealer.NonceSize())
	for bound, want := range map[string]bool{string(bound()): true, "": false, string(head): false, "other.state\n" + string(head): false} {
		file := sealer.Seal(append(bytes.Clone(head), nonce...), nonce, content, []byte(bound))
		if _, err := open(key, file); (err == nil) != want {
			t.Errorf("sealed for %q: got %v, want it to open: %v", bound, err, want)
		}
	}
}

func TestAKeyThatCannotBeUsedIsReplacedWithTheNextState(t *testing.T) {
	for what, key := range map[string][]byte{"short": make([]byte, keySize-1), "long": make([]byte, keySize+1), "empty": {}} {
		d := newDisk(t)
		if err := d.save(stateAt(1), time.Now()); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(d.path(keyFile), key, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := d.Load(); err == nil {
			t.Errorf("%s: the state was loaded without its key", what)
		}
		if err := d.save(stateAt(2), time.Now()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if s, _, err := d.Load(); err != nil || s.Revision != 2 {
			t.Errorf("%s: got %v, %v; want the state of revision 2", what, s, err)
		}
	}
}

func TestACrashBeforeTheRenameLeavesTheStateThatWasThere(t *testing.T) {
	d := newDisk(t)
	if err := d.save(stateAt(1), time.Now()); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(d.path(stateFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, len(whole) / 2, len(whole)} {
		if err := os.WriteFile(d.path(stateFile+".new"), bytes.Repeat([]byte{1}, n), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, _, err := d.Load(); err != nil || s.Revision != 1 {
			t.Errorf("%d bytes were written: got %v, %v; want the state that was there", n, s, err)
		}
	}
	if err := d.save(stateAt(2), time.Now()); err != nil {
		t.Fatal(err)
	}
	if s, _, err := d.Load(); err != nil || s.Revision != 2 {
		t.Errorf("written again: got %v, %v; want the state of revision 2", s, err)
	}
	if _, err := os.Stat(d.path(stateFile + ".new")); !os.IsNotExist(err) {
		t.Errorf("what the crash left behind is still there: %v", err)
	}
}

func TestAReaderOfAFileThatIsReplacedReadsItToItsEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := Replace(path, []byte("before")); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := Replace(path, []byte("after")); err != nil {
		t.Fatal(err)
	}
	var before bytes.Buffer
	if _, err := before.ReadFrom(file); err != nil || before.String() != "before" {
		t.Errorf("got %q, %v; want the file that was opened, untouched", before.String(), err)
	}
	if err := Replace(filepath.Join(path, "not", "there"), nil); err == nil {
		t.Error("in no directory: got no error")
	}
}

func TestTheNewestStateIsWrittenOnceASecondAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDisk(t)
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		group.Go(func() {
			if err := d.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		onDisk := func(want int64) {
			t.Helper()
			synctest.Wait()
			if s, _, err := d.Load(); err != nil || s.Revision != want {
				t.Errorf("after %v: got %v, %v; want the state of revision %d", time.Now(), s, err, want)
			}
		}
		time.Sleep(time.Hour)
		d.Keep(stateAt(1))
		onDisk(1)
		d.Keep(stateAt(2))
		d.Keep(stateAt(3))
		time.Sleep(keepEvery - 1)
		onDisk(1)
		time.Sleep(1 * time.Nanosecond)
		onDisk(3)
		time.Sleep(time.Hour)
		onDisk(3)
		d.Keep(stateAt(4))
		onDisk(4)
		d.Keep(stateAt(5))
		cancel()
		group.Wait()
		onDisk(5) // what came last is not lost with the worker's end
	})
}

func TestAWorkerGoesOnThoughNothingCanBeKept(t *testing.T) {
	var log bytes.Buffer
	d := NewDisk(filepath.Join(t.TempDir(), "not", "there"), hclog.New(&hclog.LoggerOptions{Output: &log}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d.Keep(stateAt(1))
	if err := d.Run(ctx); err != nil {
		t.Error(err)
	}
	if !strings.Contains(log.String(), "configuration not kept") {
		t.Errorf("log: got %q, want a line that the configuration is not kept", log.String())
	}
}

// FuzzContentOfAState: whatever was sealed, it is a state, which can be kept once more,
// or an error.
func FuzzContentOfAState(f *testing.F) {
	content, err := encode(stateAt(7), time.Unix(1, 2))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(content)
	f.Add(content[:times])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, content []byte) {
		s, at, err := decode(content)
		if err != nil {
			return
		}
		_, _ = Compile(s, empty) // which refuses what cannot be served
		again, err := encode(s, at)
		if err != nil {
			t.Fatalf("a state that was decoded cannot be encoded: %v", err)
		}
		if back, _, err := decode(again); err != nil || !same(back, s) {
			t.Errorf("encoded again: got %v, %v; want %v", back, err, s)
		}
	})
}

// FuzzFileOfAState: no file but one that was sealed opens.
func FuzzFileOfAState(f *testing.F) {
	key := bytes.Repeat([]byte{9}, keySize)
	f.Add(head)
	f.Add(append(bytes.Clone(head), make([]byte, 64)...))
	f.Add([]byte(stateHead + "18446744073709551616\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		if content, err := open(key, file); err == nil {
			t.Errorf("got %d bytes of a file that nobody sealed", len(content))
		}
	})
}
