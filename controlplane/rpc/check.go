package rpc

import (
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/leasehold/leasehold/controlplane/gateway"
	"github.com/leasehold/leasehold/controlplane/session"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	// MaxRecordBytes bounds a session's record.
	MaxRecordBytes = 256 << 10
	// maxInfoBytes bounds each text that a worker says of itself.
	maxInfoBytes = 255
	// maxPeers bounds the workers that one names in a request.
	maxPeers = 1000
	// maxCursorBytes bounds an event's id that is recorded.
	maxCursorBytes = 1024
)

// everyGateway is the parent of all sessions.
const everyGateway = "gateways/-"

// check collects everything that is wrong with a request.
type check struct{ violations gateway.Violations }

func (c *check) err() error { return c.violations.Err() }

func (c *check) add(field, format string, args ...any) {
	c.violations = append(c.violations, gateway.Violation{Field: field, Description: fmt.Sprintf(format, args...)})
}

func (c *check) worker(field, id string) {
	if !session.ValidWorkerID(id) {
		c.add(field, "must be %d lower-case hexadecimal digits; has %d bytes", session.WorkerIDLength, len(id))
	}
}

// workerName returns the id in the name of a worker.
func (c *check) workerName(field, name string) string {
	id, ok := session.ParseWorkerName(name)
	if !ok {
		c.add(field, "must be workers/{worker} with an id of %d hexadecimal digits; has %d bytes", session.WorkerIDLength, len(name))
	}
	return id
}

// sessionName returns the session that a name is of.
func (c *check) sessionName(name string) session.Key {
	key, ok := session.ParseName(name)
	if !ok {
		c.add("name", "must be gateways/{gateway}/sessions/{digest} with a digest of %d hexadecimal digits; has %d bytes", session.DigestLength, len(name))
	}
	return key
}

// peer returns a registration of a worker other than the caller.
func (c *check) peer(field string, p *leaseholdv1.Peer, caller string) session.Peer {
	c.worker(field+".worker", p.GetWorker())
	c.positive(field+".incarnation", p.GetIncarnation())
	if p.GetWorker() != "" && p.GetWorker() == caller {
		c.add(field+".worker", "must be another worker than the caller")
	}
	return session.Peer{Worker: p.GetWorker(), Incarnation: p.GetIncarnation()}
}

// peers returns registrations of other workers. No more is said than that they are too
// many, or what is wrong with the first.
func (c *check) peers(field string, list []*leaseholdv1.Peer, caller string) []session.Peer {
	if len(list) > maxPeers {
		c.add(field, "must have at most %d entries; has %d", maxPeers, len(list))
		return nil
	}
	peers := make([]session.Peer, len(list))
	before := len(c.violations)
	for i, p := range list {
		if len(c.violations) > before {
			return nil
		}
		peers[i] = c.peer(fmt.Sprintf("%s[%d]", field, i), p, caller)
	}
	return peers
}

func (c *check) cursors(field string, cursors map[string]string) {
	if len(cursors) > gateway.MaxUpstreams {
		c.add(field, "must have at most %d entries, as many as a gateway has upstreams; has %d", gateway.MaxUpstreams, len(cursors))
		return
	}
	for upstream, cursor := range cursors {
		if len(cursor) > maxCursorBytes {
			c.add(fmt.Sprintf("%s[%q]", field, upstream), "must be at most %d bytes; has %d", maxCursorBytes, len(cursor))
		}
	}
}

func (c *check) positive(field string, n int64) {
	if n <= 0 {
		c.add(field, "must be greater than 0; is %d", n)
	}
}

func (c *check) notNegative(field string, n int64) {
	if n < 0 {
		c.add(field, "must be at least 0; is %d", n)
	}
}

// parent returns the gateway whose sessions are asked for; empty for all.
func (c *check) parent(parent string) string {
	if parent == "" || parent == everyGateway {
		return ""
	}
	id, ok := gateway.ParseName(parent)
	if !ok {
		c.add("parent", "%s", gatewayRule(parent))
	}
	return id
}

func (c *check) gatewayFilter(text string) gateway.Filter {
	f, violations := gateway.ParseFilter(text)
	c.violations = append(c.violations, violations...)
	return f
}

// sessionFilter returns a filter of a gateway's sessions.
func (c *check) sessionFilter(parent, text string) session.Filter {
	f, violations := session.ParseFilter(text)
	c.violations = append(c.violations, violations...)
	return f.In(parent)
}

func (c *check) session(key session.Key) {
	if !gateway.ValidID(key.Gateway) {
		c.add("gateway", "must be a gateway's id of 1 to %d characters; has %d bytes", gateway.MaxIDLength, len(key.Gateway))
	}
	if !session.ValidDigest(key.Digest) {
		c.add("session", "must be %d lower-case hexadecimal digits; has %d bytes", session.DigestLength, len(key.Digest))
	}
}

func (c *check) record(rec *session.Record) {
	if rec == nil {
		c.add("record", "is required")
		return
	}
	if size := proto.Size(rec); size > MaxRecordBytes {
		c.add("record", "must be at most %d bytes; has %d", MaxRecordBytes, size)
	}
	c.worker("record.worker", rec.GetWorker())
	c.positive("record.incarnation", rec.GetIncarnation())
	if rec.GetEpoch() == 0 {
		c.add("record.epoch", "must be greater than 0; is 0")
	}
	if rec.GetEnd() != nil {
		c.add("record.end", "must be empty: End is what ends a session")
	}
	c.time("record.create_time", rec.GetCreateTime())
	c.time("record.expire_time", rec.GetExpireTime())
}

func (c *check) time(field string, t *timestamppb.Timestamp) {
	if t != nil && t.CheckValid() != nil {
		c.add(field, "must be a valid time; has %d s, %d ns", t.GetSeconds(), t.GetNanos())
	}
}

func (c *check) info(field string, info *leaseholdv1.WorkerInfo) {
	if info == nil {
		c.add(field, "is required")
		return
	}
	if info.GetPeerAddress() == "" {
		c.add(field+".peer_address", "is required")
	}
	c.text(field+".peer_address", info.GetPeerAddress())
	c.text(field+".listen_address", info.GetListenAddress())
	c.text(field+".admin_address", info.GetAdminAddress())
	c.text(field+".zone", info.GetZone())
	c.text(field+".version", info.GetVersion())
	if info.GetCapacity() < 0 {
		c.add(field+".capacity", "must be at least 0; is %d", info.GetCapacity())
	}
}

func (c *check) text(field, value string) {
	if len(value) > maxInfoBytes {
		c.add(field, "must be at most %d bytes; has %d", maxInfoBytes, len(value))
	}
}
