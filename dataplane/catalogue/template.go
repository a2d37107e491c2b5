package catalogue

import (
	"strings"

	"github.com/yosida95/uritemplate/v3"
)

// Bounds of a template that is read by RFC 6570, so that its automaton stays small.
// Of others only the text between the expressions counts.
const (
	maxTemplateBytes = 1024
	maxVariables     = 64
)

// template is a URI template that URIs can be matched with.
type template struct {
	texts []string // what is before, between and behind the expressions
	rfc   *uritemplate.Template
}

func newTemplate(raw string) *template {
	t := &template{}
	for text := raw; ; {
		before, rest, found := strings.Cut(text, "{")
		t.texts = append(t.texts, before)
		if !found {
			break
		}
		_, text, _ = strings.Cut(rest, "}")
	}
	if len(raw) <= maxTemplateBytes && len(t.texts)+strings.Count(raw, ",") <= maxVariables {
		t.rfc, _ = uritemplate.New(raw) // nil if it is not one
	}
	return t
}

// fits reports whether uri is an expansion of the template. It does not compare the
// values of variables that are there twice, nor lengths.
func (t *template) fits(uri string) bool {
	return t.mayFit(uri) && t.rfc != nil && t.rfc.Regexp().MatchString(uri)
}

// mayFit reports whether a server that is less strict than RFC 6570 may take uri for
// an expansion: it has the template's text, with anything in place of expressions.
func (t *template) mayFit(uri string) bool {
	if len(t.texts) == 1 {
		return uri == t.texts[0]
	}
	return matchParts(t.texts, uri)
}

// mayMeet reports whether there may be a URI that may fit both.
func (t *template) mayMeet(o *template) bool {
	if len(t.texts) == 1 {
		return o.mayFit(t.texts[0])
	}
	if len(o.texts) == 1 {
		return t.mayFit(o.texts[0])
	}
	return t.mayBegin(o.texts[0]) && mayEnd(t.last(), o.last())
}

// mayBegin reports whether an expansion may begin as one that begins with text does.
func (t *template) mayBegin(text string) bool {
	return strings.HasPrefix(t.texts[0], text) || strings.HasPrefix(text, t.texts[0])
}

func (t *template) last() string { return t.texts[len(t.texts)-1] }

func mayEnd(a, b string) bool { return strings.HasSuffix(a, b) || strings.HasSuffix(b, a) }
