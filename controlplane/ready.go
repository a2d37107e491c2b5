package controlplane

import (
	"errors"
	"sync"
)

// errStarting is why a plane that has just begun is not ready.
var errStarting = errors.New("starting")

// readiness is what has to be well for the plane to be ready.
type readiness struct {
	mu    sync.Mutex // guards what follows, and is held while it is told
	etcd  error      // why the state in etcd is not followed
	audit error      // why the audit log cannot be written
	ready bool       // as it was told last
}

// followed says whether the state in etcd is followed, and why not.
func (p *plane) followed(err error) {
	p.readiness.mu.Lock()
	defer p.readiness.mu.Unlock()
	if (err == nil) != (p.readiness.etcd == nil) {
		p.server.SetReady(err == nil) // workers do not need the audit log
	}
	p.readiness.etcd = err
	p.tellReady()
}

// audited says whether the audit log can be written, and why not.
func (p *plane) audited(err error) {
	p.readiness.mu.Lock()
	defer p.readiness.mu.Unlock()
	p.readiness.audit = err
	p.tellReady()
}

// tellReady tells whether the plane is ready if that has changed. The lock is held.
func (p *plane) tellReady() {
	err := errors.Join(p.readiness.etcd, p.readiness.audit)
	ready := err == nil
	if ready == p.readiness.ready {
		return
	}
	p.readiness.ready = ready
	p.cfg.Health(err)
	if ready {
		p.cfg.Logger.Info("control plane is ready", "address", p.cfg.Listener.Addr().String(), "version", p.cfg.Version)
		return
	}
	p.cfg.Logger.Warn("control plane is not ready", "error", err)
}
