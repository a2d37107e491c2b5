package main

import (
	"fmt"
	"net"

	"github.com/leasehold/leasehold/cmd/internal/address"
)

// anyPort is a free port of this machine.
const anyPort = "127.0.0.1:0"

// listeners are all listeners of `leasehold dev`. They are opened before
// anything starts, so that a port in use is told at once.
type listeners struct {
	control, admin, demo net.Listener
	clients, peers       []net.Listener
}

func (d *dev) open() (_ *listeners, err error) {
	l := &listeners{}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.control, err = address.Listen(d.controlListen, "control-listen"); err != nil {
		return nil, fmt.Errorf("control plane: %w", err)
	}
	for i := range d.workers {
		addr, err := address.Offset(d.listen, i)
		if err != nil {
			return nil, err
		}
		client, err := address.Listen(addr, "listen")
		if err != nil {
			return nil, fmt.Errorf("worker %d: %w", i, err)
		}
		l.clients = append(l.clients, client)
		peer, err := net.Listen("tcp", anyPort)
		if err != nil {
			return nil, fmt.Errorf("worker %d: %w", i, err)
		}
		l.peers = append(l.peers, peer)
	}
	if l.admin, err = net.Listen("tcp", anyPort); err != nil {
		return nil, fmt.Errorf("admin listener: %w", err)
	}
	if d.noDemo {
		return l, nil
	}
	if l.demo, err = net.Listen("tcp", anyPort); err != nil {
		return nil, fmt.Errorf("demo upstream: %w", err)
	}
	return l, nil
}

// close closes what was opened; listeners that somebody serves are closed by
// that one as well, which does no harm.
func (l *listeners) close() {
	all := append([]net.Listener{l.control, l.admin, l.demo}, append(l.clients, l.peers...)...)
	for _, listener := range all {
		if listener != nil {
			_ = listener.Close()
		}
	}
}
