// Package filter reads the filters of lists and watches: conditions on fields,
// joined with AND. It knows the form of a filter and nothing of what is filtered.
//
//	filter    = condition { "AND" condition }
//	condition = field [ "." key ] ( "=" value | ":*" )
//
// A key or value with anything but letters, digits and _ - . / in it stands in
// double or single quotes, within which a backslash quotes the next character.
// A value may have : @ + % , too.
package filter

import (
	"fmt"
	"strings"
)

// MaxBytes is how long a filter may be.
const MaxBytes = 1024

// Condition is one condition of a filter.
type Condition struct {
	// Position is the byte at which the condition begins, from 0.
	Position int
	// Field is the name of the field.
	Field string
	// Key is what follows the field and a dot; empty if there is none.
	Key string
	// Present says that the field is there at all: field:*.
	Present bool
	// Value is what the field equals, unless Present is set.
	Value string
}

// Error is what is wrong with a filter, and where.
type Error struct {
	// Position is the byte at which it is wrong, from 0.
	Position int
	// Message says what has to be there instead, and never what is there.
	Message string
}

// Error says both.
func (e *Error) Error() string { return fmt.Sprintf("at byte %d: %s", e.Position, e.Message) }

// Parse returns the conditions of a filter, all of which must hold; none for a
// filter that is empty. The error is an *Error.
func Parse(text string) ([]Condition, error) {
	if len(text) > MaxBytes {
		return nil, &Error{Position: MaxBytes, Message: fmt.Sprintf("must be at most %d bytes; has %d", MaxBytes, len(text))}
	}
	p := &parser{text: text}
	if p.space(); p.done() {
		return nil, nil
	}
	var conditions []Condition
	for {
		c, err := p.condition()
		if err != nil {
			return nil, err
		}
		conditions = append(conditions, c)
		if p.space(); p.done() {
			return conditions, nil
		}
		if err := p.and(); err != nil {
			return nil, err
		}
	}
}

type parser struct {
	text string
	at   int
}

func (p *parser) done() bool { return p.at == len(p.text) }

func (p *parser) fail(format string, args ...any) error {
	return &Error{Position: p.at, Message: fmt.Sprintf(format, args...)}
}

func (p *parser) space() {
	p.at += len(p.text[p.at:]) - len(strings.TrimLeft(p.text[p.at:], " \t\r\n"))
}

// next takes c if it comes next.
func (p *parser) next(c byte) bool {
	if p.done() || p.text[p.at] != c {
		return false
	}
	p.at++
	return true
}

// word takes the bytes that come next and are letters, digits or one of extra.
func (p *parser) word(extra string) string {
	from := p.at
	for !p.done() && (alphanumeric(p.text[p.at]) || strings.IndexByte(extra, p.text[p.at]) >= 0) {
		p.at++
	}
	return p.text[from:p.at]
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func (p *parser) and() error {
	at := p.at
	if p.word("_") != "AND" {
		p.at = at
		return p.fail("must be AND or the end here")
	}
	p.space()
	return nil
}

func (p *parser) condition() (c Condition, err error) {
	c.Position = p.at
	if c.Field = p.word("_"); c.Field == "" {
		return c, p.fail("must be the name of a field here")
	}
	if p.next('.') {
		if c.Key, err = p.some("_-./", "a key"); err != nil {
			return c, err
		}
	}
	p.space()
	switch {
	case p.next('='):
		p.space()
		c.Value, err = p.value()
	case p.next(':'):
		if c.Present = p.next('*'); !c.Present {
			err = p.fail("must be * here: only presence (:*) and equality (=) can be asked for")
		}
	default:
		err = p.fail("must be = or :* here")
	}
	return c, err
}

// value is like a key, and may be empty within quotes.
func (p *parser) value() (string, error) {
	if !p.done() && (p.text[p.at] == '"' || p.text[p.at] == '\'') {
		return p.quoted()
	}
	return p.some("_-./:@+%,", "a value, in quotes if it has other characters than letters, digits and _ - . / : @ + % ,")
}

// some takes a word of at least one byte, or what is quoted.
func (p *parser) some(extra, what string) (string, error) {
	if !p.done() && (p.text[p.at] == '"' || p.text[p.at] == '\'') {
		at := p.at
		text, err := p.quoted()
		if err == nil && text == "" {
			p.at = at
			return "", p.fail("must be %s here", what)
		}
		return text, err
	}
	text := p.word(extra)
	if text == "" {
		return "", p.fail("must be %s here", what)
	}
	return text, nil
}

func (p *parser) quoted() (string, error) {
	begin := p.at
	quote := p.text[p.at]
	var b strings.Builder
	for p.at++; !p.done(); p.at++ {
		switch c := p.text[p.at]; {
		case c == quote:
			p.at++
			return b.String(), nil
		case c == '\\' && p.at+1 < len(p.text):
			p.at++
			b.WriteByte(p.text[p.at])
		default:
			b.WriteByte(c)
		}
	}
	p.at = begin
	return "", p.fail("this quote is not closed")
}
