package credential

import "errors"

// FieldError is what is wrong with one field of a definition.
type FieldError struct {
	// Field is where it is, such as oauth.tls.min_version.
	Field string
	// Err is what is wrong.
	Err error
}

// Error names the field first.
func (e *FieldError) Error() string { return e.Field + ": " + e.Err.Error() }

// Unwrap returns what is wrong.
func (e *FieldError) Unwrap() error { return e.Err }

// At says in which field of a message it is that err is about, which is a FieldError
// if it is about a field of that field's message.
func At(field string, err error) error {
	var inner *FieldError
	if errors.As(err, &inner) {
		return &FieldError{field + "." + inner.Field, inner.Err}
	}
	return &FieldError{field, err}
}
