package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// headStart is how long a worker waits with its own registration until its
// predecessor's lease is given back. Longer than a control plane that is well
// takes, and short enough to be ready in time with one that is not.
const headStart = 500 * time.Millisecond

// registration is what a worker leaves behind in its data directory, for the
// next one that starts there: whoever has the directory for itself knows that
// the process which wrote it is gone, if the machine was not started since, and
// need not wait for the end of its lease.
type registration struct {
	Worker      string `json:"worker"`
	Incarnation int64  `json:"incarnation"`
	Lease       int64  `json:"lease"`
	// Boot is the machine's boot id. On another boot, or another machine that
	// shares the directory, the lock on the directory proves nothing.
	Boot string `json:"boot"`
	// Directory tells the directory from a copy of it, whose lock proves nothing
	// either.
	Directory string `json:"directory"`
}

// errNoPredecessor says that nothing was left behind, or nothing for this worker
// to act on.
var errNoPredecessor = errors.New("no predecessor")

// succession keeps a worker's registration in its data directory.
type succession struct {
	dir  string
	boot func() (string, error)
}

// registrationFile is the name in the data directory.
const registrationFile = "registration.json"

func (s succession) path() string { return filepath.Join(s.dir, registrationFile) }

// predecessor returns the registration that was left behind. The error is
// errNoPredecessor, or says what is wrong with the file.
func (s succession) predecessor() (registration, error) {
	here, err := s.here()
	if err != nil {
		return registration{}, err
	}
	text, err := os.ReadFile(s.path())
	if errors.Is(err, fs.ErrNotExist) {
		return registration{}, fmt.Errorf("%w: there is no %s", errNoPredecessor, s.path())
	}
	if err != nil {
		return registration{}, err
	}
	var r registration
	if err := json.Unmarshal(text, &r); err != nil {
		return registration{}, fmt.Errorf("%s: %w", s.path(), err)
	}
	switch {
	case r.Worker == "" || r.Incarnation <= 0 || r.Boot == "" || r.Directory == "":
		return registration{}, fmt.Errorf("%s is not a registration", s.path())
	case r.Boot != here.Boot:
		return registration{}, fmt.Errorf("%w: %s is of another boot or machine", errNoPredecessor, s.path())
	case r.Directory != here.Directory:
		return registration{}, fmt.Errorf("%w: %s was copied from another directory", errNoPredecessor, s.path())
	}
	return r, nil
}

// here returns where and when this process runs.
func (s succession) here() (registration, error) {
	boot, err := s.boot()
	if err != nil {
		return registration{}, fmt.Errorf("boot id: %w", err)
	}
	info, err := os.Stat(s.dir)
	if err != nil {
		return registration{}, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if boot == "" || !ok || !info.IsDir() {
		return registration{}, fmt.Errorf("%s cannot be told from other directories", s.dir)
	}
	return registration{Boot: boot, Directory: fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)}, nil
}

// leaveBehind records a registration so that it is still there, whole, after the
// process was killed at any time.
func (s succession) leaveBehind(worker string, held lease) error {
	r, err := s.here()
	if err != nil {
		return err
	}
	r.Worker, r.Incarnation, r.Lease = worker, held.incarnation, held.id
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return config.Replace(s.path(), append(text, '\n'))
}

// forget removes the record: what it tells is over.
func (s succession) forget() error {
	if err := os.Remove(s.path()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// succeed gives back, in its stead, the lease of the worker that used the data
// directory before, so that its sessions can be taken at once. It asks until it
// is answered or ctx ends, and closes the channel then.
func (c *Client) succeed(ctx context.Context) <-chan struct{} {
	done := make(chan struct{})
	predecessor, err := c.succession.predecessor()
	if err != nil {
		if errors.Is(err, errNoPredecessor) {
			c.cfg.Logger.Info("no worker to succeed in the data directory", "reason", err)
		} else {
			c.cfg.Logger.Warn("no worker to succeed in the data directory", "error", err)
		}
		close(done)
		return done
	}
	go func() {
		defer close(done)
		var err error
		for attempt := 0; ; attempt++ {
			_, err = call(ctx, c, "Leave", &leaseholdv1.LeaveRequest{
				Worker: predecessor.Worker, Incarnation: predecessor.Incarnation, Lease: predecessor.Lease,
			}, leaseholdv1.ControlServiceClient.Leave)
			if !errors.Is(err, session.ErrNoRoom) || pause(ctx, attempt) != nil {
				break
			}
		}
		log := c.cfg.Logger.With("predecessor", predecessor.Worker, "incarnation", predecessor.Incarnation)
		if err != nil {
			log.Warn("the predecessor's lease is not given back; its sessions go on once it has run out", "error", err)
			return
		}
		log.Info("left on behalf of the worker that used the data directory before")
	}()
	return done
}

// record leaves the registration behind for a successor. Without it one has to
// wait for the end of the lease, and nothing else is lost.
func (c *Client) record(held lease) {
	if err := c.succession.leaveBehind(c.cfg.Worker, held); err != nil {
		c.cfg.Logger.Warn("registration not recorded; if this process dies, its sessions wait until its lease has run out", "error", err)
	}
}
