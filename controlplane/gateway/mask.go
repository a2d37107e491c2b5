package gateway

import (
	"fmt"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// setters copy one field that an operator may set from one gateway to another.
var setters = map[string]func(to, from *leaseholdv1.Gateway){
	"description": func(to, from *leaseholdv1.Gateway) { to.Description = from.GetDescription() },
	"labels":      func(to, from *leaseholdv1.Gateway) { to.Labels = from.GetLabels() },
	"upstreams":   func(to, from *leaseholdv1.Gateway) { to.Upstreams = from.GetUpstreams() },
	"session":     func(to, from *leaseholdv1.Gateway) { to.Session = from.GetSession() },
	"naming":      func(to, from *leaseholdv1.Gateway) { to.Naming = from.GetNaming() },
	"open_timeout": func(to, from *leaseholdv1.Gateway) {
		to.OpenTimeout = from.GetOpenTimeout()
	},
	"session.idle_timeout": func(to, from *leaseholdv1.Gateway) {
		policy(to).IdleTimeout = from.GetSession().GetIdleTimeout()
	},
	"session.absolute_lifetime": func(to, from *leaseholdv1.Gateway) {
		policy(to).AbsoluteLifetime = from.GetSession().GetAbsoluteLifetime()
	},
	"session.on_upstream_lost": func(to, from *leaseholdv1.Gateway) {
		policy(to).OnUpstreamLost = from.GetSession().GetOnUpstreamLost()
	},
	"*": settable,
}

// serverSet are the fields that only the server sets, or that never change.
var serverSet = map[string]bool{"name": true, "etag": true, "create_time": true, "update_time": true, "status": true}

func policy(g *leaseholdv1.Gateway) *leaseholdv1.SessionPolicy {
	if g.Session == nil {
		g.Session = &leaseholdv1.SessionPolicy{}
	}
	return g.Session
}

func settable(to, from *leaseholdv1.Gateway) {
	to.Description = from.GetDescription()
	to.Labels = from.GetLabels()
	to.Upstreams = from.GetUpstreams()
	to.Session = from.GetSession()
	to.Naming = from.GetNaming()
	to.OpenTimeout = from.GetOpenTimeout()
}

// CheckMask returns what is wrong with an update mask.
func CheckMask(mask *fieldmaskpb.FieldMask) Violations {
	var v Violations
	for i, path := range mask.GetPaths() {
		field := fmt.Sprintf("update_mask.paths[%d]", i)
		switch {
		case setters[path] != nil:
		case serverSet[path]:
			v.add(field, "names a field that an operator does not set; has %d bytes", len(path))
		default:
			v.add(field, "must be one of description, labels, upstreams, session, session.idle_timeout, session.absolute_lifetime, session.on_upstream_lost, naming, open_timeout and *; has %d bytes", len(path))
		}
	}
	return v
}

// Apply returns stored with the fields that mask names taken from change, and
// what is then left open filled with defaults, and its secrets as Retain has them.
// An empty mask names all fields
// that an operator may set. The mask must have passed CheckMask; the result is
// to be validated. Neither argument is changed.
func Apply(stored, change *leaseholdv1.Gateway, mask *fieldmaskpb.FieldMask) *leaseholdv1.Gateway {
	next, from := proto.CloneOf(stored), proto.CloneOf(change)
	paths := mask.GetPaths()
	if len(paths) == 0 {
		paths = []string{"*"}
	}
	for _, path := range paths {
		if set := setters[path]; set != nil {
			set(next, from)
		}
	}
	Retain(stored, next)
	Default(next)
	return next
}

// Definition returns a copy of g that has its name and what an operator may set,
// and nothing else: what is stored. Fields that this version does not know are among
// what is stored: a newer one put them there, and reads them.
func Definition(g *leaseholdv1.Gateway) *leaseholdv1.Gateway {
	def, from := &leaseholdv1.Gateway{Name: g.GetName()}, proto.CloneOf(g)
	settable(def, from)
	def.ProtoReflect().SetUnknown(from.ProtoReflect().GetUnknown())
	return def
}
