package config

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/proto"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Names in the data directory, and the format of the state.
const (
	stateFile = "config.state"
	keyFile   = "config.key"
	// stateHead is what the file of a state begins with. The number is the format's.
	stateHead = "leasehold config "
	format    = 1
	// maxStateFile bounds the file.
	maxStateFile = 256 << 20
	// keepEvery is how often a state is written at most.
	keepEvery = time.Second
)

// ErrNotKept says that there is no state on disk.
var ErrNotKept = errors.New("no configuration is kept")

// Disk keeps the newest state of the world, as Quarantine.Kept has it, in a worker's data directory, for when the
// worker is started while the control plane is away. The state holds keys and perhaps
// secrets of gateways, so it is sealed, with a key in a file beside it; whoever has
// both can read it. What was changed, or is from another directory, does not open.
// Safe for concurrent use.
type Disk struct {
	dir    string
	log    hclog.Logger
	newest atomic.Pointer[State]
	wake   chan struct{} // capacity 1
}

// NewDisk returns the disk of a worker whose data directory is dir.
func NewDisk(dir string, log hclog.Logger) *Disk {
	return &Disk{dir: dir, log: log, wake: make(chan struct{}, 1)}
}

// Keep has a state written in place of the one before. It does not wait. The caller
// does not change the state any more.
func (d *Disk) Keep(s *State) {
	d.newest.Store(s)
	select {
	case d.wake <- struct{}{}:
	default: // it will be taken
	}
}

// Run writes the newest state, at most once a second, until ctx ends.
func (d *Disk) Run(ctx context.Context) error {
	defer d.write() // what came last
	pace := time.NewTimer(keepEvery)
	defer pace.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.wake:
		}
		d.write()
		pace.Reset(keepEvery)
		select {
		case <-ctx.Done():
			return nil
		case <-pace.C:
		}
	}
}

func (d *Disk) write() {
	s := d.newest.Swap(nil)
	if s == nil {
		return
	}
	if err := d.save(s, time.Now()); err != nil {
		d.log.Warn("configuration not kept; a worker that is started here while the control plane is away knows an older one, or none",
			"revision", s.Revision, "error", err)
	}
}

func (d *Disk) save(s *State, now time.Time) error {
	key, err := d.key()
	if err != nil {
		return fmt.Errorf("%s: %w", keyFile, err)
	}
	content, err := encode(s, now)
	if err != nil {
		return err
	}
	if len(content) > maxStateFile-1024 {
		return fmt.Errorf("the state has %d bytes, at most %d are kept", len(content), maxStateFile-1024)
	}
	return Replace(filepath.Join(d.dir, stateFile), seal(key, content))
}

// Load returns the state that was written last, and when that was. ErrNotKept: there
// is none.
func (d *Disk) Load() (*State, time.Time, error) {
	path := filepath.Join(d.dir, stateFile)
	sealed, err := readAtMost(path, maxStateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, time.Time{}, fmt.Errorf("%w: there is no %s", ErrNotKept, path)
	}
	if err != nil {
		return nil, time.Time{}, err
	}
	key, err := readKey(filepath.Join(d.dir, keyFile))
	if err != nil {
		return nil, time.Time{}, err
	}
	content, err := open(key, sealed)
	if err == nil {
		var s *State
		var saved time.Time
		if s, saved, err = decode(content); err == nil {
			return s, saved, nil
		}
	}
	return nil, time.Time{}, fmt.Errorf("%s: %w", path, err)
}

// key returns the key of the directory, and makes one if there is none that can be
// used: what it sealed cannot be opened anyway.
func (d *Disk) key() ([]byte, error) {
	path := filepath.Join(d.dir, keyFile)
	key, err := readKey(path)
	if err == nil {
		return key, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		d.log.Warn("the key of the configuration cannot be used, a new one is made", "error", err)
	}
	key = make([]byte, keySize)
	rand.Read(key) // never fails
	return key, Replace(path, key)
}

const keySize = 32

func readKey(path string) ([]byte, error) {
	key, err := readAtMost(path, keySize)
	if err == nil && len(key) != keySize {
		err = fmt.Errorf("%s has %d bytes, want %d", path, len(key), keySize)
	}
	return key, err
}

func readAtMost(path string, most int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > most {
		return nil, fmt.Errorf("%s has %d bytes, at most %d are read", path, info.Size(), most)
	}
	return os.ReadFile(path)
}

// head is what a file of this format begins with.
var head = fmt.Appendf(nil, "%s%d\n", stateHead, format)

// bound is what is sealed with a state, so that it opens at its own place only.
func bound() []byte { return append([]byte(stateFile+"\n"), head...) }

func newSealer(key []byte) cipher.AEAD {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("config: " + err.Error()) // the size of the key is right
	}
	sealer, err := cipher.NewGCM(block)
	if err != nil {
		panic("config: " + err.Error()) // the size of the block is
	}
	return sealer
}

func seal(key, content []byte) []byte {
	sealer := newSealer(key)
	file := append(make([]byte, 0, len(head)+sealer.NonceSize()+len(content)+sealer.Overhead()), head...)
	nonce := file[len(head) : len(head)+sealer.NonceSize()]
	rand.Read(nonce) // never fails
	return sealer.Seal(file[:len(head)+len(nonce)], nonce, content, bound())
}

func open(key, file []byte) ([]byte, error) {
	line, _, _ := bytes.Cut(file[:min(len(file), 64)], []byte("\n"))
	number, ok := bytes.CutPrefix(line, []byte(stateHead))
	switch {
	case !ok:
		return nil, errors.New("not a configuration of a worker")
	case !bytes.HasPrefix(file, head):
		return nil, fmt.Errorf("the configuration has format %.20q, this worker reads %d", number, format)
	}
	sealer, rest := newSealer(key), file[len(head):]
	if len(rest) < sealer.NonceSize() {
		return nil, errors.New("the configuration is cut off")
	}
	content, err := sealer.Open(nil, rest[:sealer.NonceSize()], rest[sealer.NonceSize():], bound())
	if err != nil {
		return nil, errors.New("the configuration was changed, or was sealed with another key")
	}
	return content, nil
}

// times is how many bytes before the state say when it was written, and its TTL and
// MaxOutage.
const times = 3 * 8

func encode(s *State, now time.Time) ([]byte, error) {
	message := &leaseholdv1.WatchResponse{
		Revision: s.Revision, Complete: true, Members: &leaseholdv1.MemberList{Members: s.Members},
		KeyRing: s.KeyRing, Endings: &leaseholdv1.EndingList{Endings: s.Endings},
	}
	for _, g := range s.Earlier { // before the others of the same names, which then count for who does not know of it
		message.Gateways = append(message.Gateways, g)
	}
	for _, g := range s.Gateways {
		message.Gateways = append(message.Gateways, g)
	}
	content := make([]byte, 0, times+proto.Size(message))
	for _, n := range [...]int64{now.UnixNano(), int64(s.TTL), int64(s.MaxOutage)} {
		content = binary.BigEndian.AppendUint64(content, uint64(n))
	}
	return proto.MarshalOptions{}.MarshalAppend(content, message)
}

func decode(content []byte) (*State, time.Time, error) {
	if len(content) < times {
		return nil, time.Time{}, fmt.Errorf("the state has %d bytes, want at least %d", len(content), times)
	}
	var numbers [3]int64
	for i := range numbers {
		numbers[i] = int64(binary.BigEndian.Uint64(content[8*i:]))
	}
	var message leaseholdv1.WatchResponse
	if err := proto.Unmarshal(content[times:], &message); err != nil {
		return nil, time.Time{}, fmt.Errorf("the state: %w", err)
	}
	s := &State{
		Revision: message.GetRevision(), Gateways: make(map[string]*leaseholdv1.Gateway, len(message.GetGateways())),
		Members: message.GetMembers().GetMembers(), KeyRing: message.GetKeyRing(), Endings: message.GetEndings().GetEndings(),
		TTL: time.Duration(numbers[1]), MaxOutage: time.Duration(numbers[2]),
	}
	for _, g := range message.GetGateways() {
		if before := s.Gateways[g.GetName()]; before != nil {
			if s.Earlier == nil {
				s.Earlier = make(map[string]*leaseholdv1.Gateway)
			}
			s.Earlier[g.GetName()] = before
		}
		s.Gateways[g.GetName()] = g
	}
	if s.Revision <= 0 || s.TTL <= 0 || s.MaxOutage < 0 || s.KeyRing == nil {
		return nil, time.Time{}, fmt.Errorf("the state has revision %d, TTL %v, maximal outage %v, a key ring: %v", s.Revision, s.TTL, s.MaxOutage, s.KeyRing != nil)
	}
	return s, time.Unix(0, numbers[0]), nil
}
