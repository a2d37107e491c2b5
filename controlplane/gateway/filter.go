package gateway

import (
	"fmt"

	"github.com/leasehold/leasehold/controlplane/filter"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Filter says which gateways are asked for. The zero value is all of them.
type Filter struct{ labels []filter.Condition }

// ParseFilter reads conditions on labels: `labels.KEY = VALUE`, `labels.KEY:*`.
func ParseFilter(text string) (Filter, Violations) {
	conditions, err := filter.Parse(text)
	if err != nil {
		return Filter{}, BadFilter(err)
	}
	for _, c := range conditions {
		if c.Field != "labels" || c.Key == "" {
			return Filter{}, BadFilter(&filter.Error{Position: c.Position, Message: "must be labels.KEY = VALUE or labels.KEY:* here"})
		}
	}
	return Filter{labels: conditions}, nil
}

// BadFilter is what err says is wrong with the field filter.
func BadFilter(err error) Violations {
	return Violations{{Field: "filter", Description: fmt.Sprintf("%s (a filter is CONDITION AND CONDITION, at most %d bytes)", err, filter.MaxBytes)}}
}

// All reports whether f matches everything.
func (f Filter) All() bool { return len(f.labels) == 0 }

// Matches reports whether g satisfies all conditions.
func (f Filter) Matches(g *leaseholdv1.Gateway) bool {
	for _, c := range f.labels {
		value, ok := g.GetLabels()[c.Key]
		if !ok || !c.Present && value != c.Value {
			return false
		}
	}
	return true
}

// Query asks for a page of gateways.
type Query struct {
	// After is the id of the last gateway of the page before.
	After string
	// Size is how many gateways are returned at most. Required.
	Size int
	// Filter says which.
	Filter Filter
}
