package usage

import (
	"errors"
	"fmt"
)

// Error is a mistake in how a command was called: a flag, an argument or an
// environment variable. Everything else that goes wrong is a failure.
type Error struct{ Err error }

// Error returns the text of the mistake.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the mistake itself.
func (e *Error) Unwrap() error { return e.Err }

// Errorf returns an Error with a formatted text.
func Errorf(format string, args ...any) error {
	return &Error{Err: fmt.Errorf(format, args...)}
}

// Is reports whether err is a mistake of usage.
func Is(err error) bool {
	var e *Error
	return errors.As(err, &e)
}
