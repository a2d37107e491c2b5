package session

import (
	"fmt"
	"strings"

	"github.com/leasehold/leasehold/controlplane/filter"
	"github.com/leasehold/leasehold/controlplane/gateway"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Filter says which sessions are asked for. The zero value is all of them.
type Filter struct {
	// Gateway is the id of their gateway; empty means any.
	Gateway string
	// Owner is the id of the worker that owns them; empty means any.
	Owner string
	// Class is their class; CLASS_UNSPECIFIED means any.
	Class leaseholdv1.Class
	// None says that the conditions exclude each other.
	None bool
}

// ParseFilter reads conditions on the fields gateway, owner and class. Names may
// lack their collection, and classes their prefix.
func ParseFilter(text string) (Filter, gateway.Violations) {
	conditions, err := filter.Parse(text)
	if err != nil {
		return Filter{}, gateway.BadFilter(err)
	}
	var f Filter
	for _, c := range conditions {
		if err := f.add(c); err != nil {
			return Filter{}, gateway.BadFilter(err)
		}
	}
	return f, nil
}

func (f *Filter) add(c filter.Condition) error {
	wrong := func(message string) error { return &filter.Error{Position: c.Position, Message: message} }
	if c.Key != "" || c.Present {
		return wrong("must be gateway = NAME, owner = NAME or class = CLASS here")
	}
	switch c.Field {
	case "gateway":
		id := strings.TrimPrefix(c.Value, gateway.Collection)
		if !gateway.ValidID(id) {
			return wrong(fmt.Sprintf("gateway must equal gateways/{gateway} with an id of 1 to %d characters; has %d bytes", gateway.MaxIDLength, len(c.Value)))
		}
		f.None = f.None || f.Gateway != "" && f.Gateway != id
		f.Gateway = id
	case "owner":
		id := strings.TrimPrefix(c.Value, workers)
		if !ValidWorkerID(id) {
			return wrong(fmt.Sprintf("owner must equal workers/{worker} with an id of %d hexadecimal digits; has %d bytes", WorkerIDLength, len(c.Value)))
		}
		f.None = f.None || f.Owner != "" && f.Owner != id
		f.Owner = id
	case "class":
		class, ok := parseClass(c.Value)
		if !ok {
			return wrong("class must equal CLASS_RESUMABLE, CLASS_REBUILDABLE or CLASS_PINNED, or one of them without CLASS_")
		}
		f.None = f.None || f.Class != 0 && f.Class != class
		f.Class = class
	default:
		return wrong("must be one of the fields gateway, owner and class here")
	}
	return nil
}

func parseClass(text string) (leaseholdv1.Class, bool) {
	name := strings.ToUpper(text)
	if !strings.HasPrefix(name, "CLASS_") {
		name = "CLASS_" + name
	}
	class := leaseholdv1.Class(leaseholdv1.Class_value[name])
	return class, class != leaseholdv1.Class_CLASS_UNSPECIFIED
}

// Matches reports whether the session satisfies all conditions.
func (f Filter) Matches(k Key, r *Record) bool {
	return !f.None &&
		(f.Gateway == "" || f.Gateway == k.Gateway) &&
		(f.Owner == "" || f.Owner == r.GetWorker()) &&
		(f.Class == leaseholdv1.Class_CLASS_UNSPECIFIED || f.Class == r.GetClass())
}

// In restricts f to one gateway, as a parent does; empty means no restriction.
func (f Filter) In(parent string) Filter {
	if parent != "" {
		f.None = f.None || f.Gateway != "" && f.Gateway != parent
		f.Gateway = parent
	}
	return f
}
