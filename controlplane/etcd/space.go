package etcd

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/leasehold/leasehold/controlplane/store"
)

const (
	// lookEvery is how often etcd is asked how much room it has, and lookAgain how often
	// while it has none.
	lookEvery, lookAgain = 10 * time.Second, time.Second
	// lookTimeout bounds one such question.
	lookTimeout = 3 * time.Second
	// nearlyFull is the part of its quota beyond which etcd is said to be nearly full.
	nearlyFull = 0.8
)

// space watches how much room etcd has. Past its quota etcd raises an alarm and refuses
// everything that puts a key or grants a lease, for all members and until an operator
// has made room and disarmed the alarm; it goes on to read, delete and renew.
type space struct {
	log   hclog.Logger
	alarm func(error)
	wake  chan struct{} // has room for one

	bytes, quota, full prometheus.Gauge

	told string // what was said last; used by run's goroutine only
}

func newSpace(reg prometheus.Registerer, log hclog.Logger, alarm func(error)) (*space, error) {
	if alarm == nil {
		alarm = func(error) {}
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	s := &space{
		log: log, alarm: alarm, wake: make(chan struct{}, 1),
		bytes: gauge("leasehold_etcd_db_bytes", "Size of the database of the etcd member that was asked last."),
		quota: gauge("leasehold_etcd_quota_bytes", "Size at which etcd refuses to grow."),
		full:  gauge("leasehold_etcd_full", "Whether etcd has raised the alarm that it has no space left: nothing can be written."),
	}
	if reg == nil {
		return s, nil
	}
	for _, g := range []*prometheus.Gauge{&s.bytes, &s.quota, &s.full} {
		var err error
		if *g, err = registered(reg, *g); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// doubt makes run look at once, since a write was refused for want of space.
func (s *space) doubt() {
	select {
	case s.wake <- struct{}{}:
	default: // it is about to look
	}
}

// watchSpace looks until ctx ends.
func (s *Store) watchSpace(ctx context.Context) {
	for ctx.Err() == nil {
		pause := lookEvery
		if err := s.look(ctx); err != nil {
			pause = lookAgain
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-s.space.wake:
			wait(ctx, lookAgain/10) // many writes are refused at the same time
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// look asks a member, and returns store.ErrFull if no member writes. That a member does
// not answer is told by what is asked for otherwise.
func (s *Store) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(withOp(ctx, "space"), lookTimeout)
	defer cancel()
	status, err := etcdserverpb.NewMaintenanceClient(s.client.ActiveConnection()).Status(ctx, &etcdserverpb.StatusRequest{})
	if err != nil {
		return nil
	}
	return s.space.note(status)
}

// note says what a member's status means, once for each change.
func (s *space) note(status *etcdserverpb.StatusResponse) error {
	s.bytes.Set(float64(status.GetDbSize()))
	s.quota.Set(float64(status.GetDbSizeQuota()))
	room := fmt.Sprintf("%d of %d bytes are used", status.GetDbSize(), status.GetDbSizeQuota())
	switch {
	case raised(status):
		s.full.Set(1)
		err := fmt.Errorf("%w: etcd refuses to write until it was compacted and defragmented, or got a larger quota, and its alarm NOSPACE was disarmed; %s", store.ErrFull, room)
		s.tell("full", err, func() { s.log.Error("etcd has no space left; sessions go on, nothing can be changed", "error", err) })
		return err
	case float64(status.GetDbSize()) > nearlyFull*float64(status.GetDbSizeQuota()) && status.GetDbSizeQuota() > 0:
		s.full.Set(0)
		s.tell("nearly", fmt.Errorf("etcd is nearly full: %s", room), func() {
			s.log.Warn("etcd is nearly full", "bytes", status.GetDbSize(), "quota", status.GetDbSizeQuota())
		})
	default:
		s.full.Set(0)
		s.tell("", nil, func() {
			s.log.Info("etcd has space again", "bytes", status.GetDbSize(), "quota", status.GetDbSizeQuota())
		})
	}
	return nil
}

func (s *space) tell(what string, alarm error, say func()) {
	if what == s.told {
		return
	}
	s.told = what
	s.alarm(alarm)
	say()
}

// raised reports whether a member says that the alarm for want of space is raised,
// by whichever member.
func raised(status *etcdserverpb.StatusResponse) bool {
	for _, text := range status.GetErrors() {
		if strings.Contains(text, etcdserverpb.AlarmType_NOSPACE.String()) {
			return true
		}
	}
	return false
}
