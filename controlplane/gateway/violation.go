package gateway

import (
	"fmt"
	"strings"
)

// maxViolations bounds how many violations are reported of one definition.
const maxViolations = 100

// Violation is one thing that is wrong with a request.
type Violation struct {
	// Field is the path of the field, such as gateway.upstreams[0].url.
	Field string
	// Description says the bound and the size of the value, never the value.
	Description string
}

// Violations is everything that is wrong with a request. It is an error if it is
// not empty.
type Violations []Violation

// Error lists all violations.
func (v Violations) Error() string {
	parts := make([]string, len(v))
	for i, one := range v {
		parts[i] = one.Field + ": " + one.Description
	}
	return strings.Join(parts, "; ")
}

// Err returns v as an error, or nil if v is empty.
func (v Violations) Err() error {
	if len(v) == 0 {
		return nil
	}
	return v
}

func (v *Violations) add(field, format string, args ...any) {
	if len(*v) < maxViolations {
		*v = append(*v, Violation{Field: field, Description: fmt.Sprintf(format, args...)})
	}
}
