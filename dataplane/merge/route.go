package merge

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/leasehold/leasehold/dataplane/catalogue"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

// kindsFor are the lists that tell where a name of a kind leads.
var kindsFor = [catalogue.Kinds]kindSet{toolKinds, promptKinds, resourceKinds, resourceKinds}

// found is where a name leads.
type found struct {
	part *part  // nil: there is no such item for clients
	name string // what the part calls it
	err  error  // why it cannot be told whether it is the part's
}

// route finds what the client means by a name. Lists that are needed for it are fetched.
func (m *merged) route(ctx context.Context, kind catalogue.Kind, name string) found {
	var asked []*part
	for {
		target, verdict := m.items().Route(kind, name)
		p := m.at(target.Upstream)
		switch {
		case verdict == catalogue.Hidden, p == nil:
			return found{}
		case verdict == catalogue.Known:
			return found{part: p, name: target.Name}
		case verdict == catalogue.Unknown && slices.Contains(asked, nil):
			return found{}
		case verdict == catalogue.Unknown:
			p = nil // a list may be older than what the client has
		case slices.Contains(asked, p):
			return found{part: p, err: errUnlisted}
		}
		asked = append(asked, p)
		if p != nil {
			if _, err := m.use(ctx, p); err != nil {
				return found{part: p, err: err}
			}
		}
		m.ready(ctx, kindsFor[kind], p)
		m.compare(kindsFor[kind])
	}
}

// errUnlisted says that a part does not say what it has.
var errUnlisted = errors.New("did not list what it has")

// callFound is call for what was found.
func (m *merged) callFound(ctx context.Context, r *request, f found, body []byte, a asked) (*http.Response, error) {
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%w: %w", session.ErrNotSent, context.Cause(ctx))
	case f.err != nil:
		return m.failed(r, f.part, f.err), nil
	}
	return m.call(ctx, r, f.part, body, a)
}

// at returns the part at a place among the upstreams; nil if there is none.
func (m *merged) at(place int) *part {
	m.mu.Lock()
	defer m.mu.Unlock()
	if place >= len(m.parts) {
		return nil
	}
	return m.parts[place]
}

// byName serves a request for a tool or a prompt.
func (m *merged) byName(ctx context.Context, r *request) (*http.Response, error) {
	kind, what := catalogue.Tools, "tool"
	if r.message.Method == mcp.MethodPromptsGet {
		kind, what = catalogue.Prompts, "prompt"
	}
	name, ok := mcp.Unquote(r.message.Name)
	if !ok {
		return r.refuse(mcp.CodeInvalidParams, "params.name is not a string"), nil
	}
	f := m.route(ctx, kind, name)
	if f.part == nil {
		return r.refuse(mcp.CodeInvalidParams, fmt.Sprintf("Unknown %s: %s", what, name)), nil
	}
	body := r.splice(namePath, func(int, []byte) []byte { return replacement(name, f.name) })
	return m.callFound(ctx, r, f, body, asked{})
}

var namePath, uriPath = [][]string{{"params", "name"}}, [][]string{{"params", "uri"}}

// replacement returns own as JSON, or nil if it is the same as what is there.
func replacement(there, own string) []byte {
	if there == own {
		return nil
	}
	return mcp.AppendQuoted(nil, own)
}

// byURI serves a request for a resource.
func (m *merged) byURI(ctx context.Context, r *request) (*http.Response, error) {
	uri, ok := mcp.Unquote(r.message.Name)
	if !ok {
		return r.refuse(mcp.CodeInvalidParams, "params.uri is not a string"), nil
	}
	f := m.route(ctx, catalogue.Resources, uri)
	if f.part == nil {
		return refuse(http.StatusOK, &mcp.Error{Code: mcp.CodeInvalidParams, ID: r.message.ID, Message: "Unknown resource: " + uri,
			Data: append(mcp.AppendQuoted([]byte(`{"uri":`), uri), '}')}), nil
	}
	if r.message.Method == mcp.MethodResourcesSubscribe && f.err == nil && !m.subscribe(f.part, f.name) {
		return r.refuse(mcp.CodeLimit, fmt.Sprintf("the session has as many subscriptions as it may: %d, with URIs of %d bytes in all",
			maxSubscriptions, maxSubscribed)), nil
	}
	if r.message.Method == mcp.MethodResourcesUnsubscribe {
		m.unsubscribe(f.part, f.name)
	}
	body := r.splice(uriPath, func(int, []byte) []byte { return replacement(uri, f.name) })
	return m.callFound(ctx, r, f, body, asked{part: mcp.AppendQuoted(nil, f.name), client: r.message.Name})
}

// subscribe remembers a subscription, for when the part is opened anew. False: there
// are too many.
func (m *merged) subscribe(p *part, uri string) bool {
	m.mu.Lock()
	key := subscription{p.upstream.Name, uri}
	known, room := m.subscribed[key], m.hasRoomLocked(uri)
	if !known && room {
		if m.subscribed == nil {
			m.subscribed = make(map[subscription]bool)
		}
		m.subscribed[key] = true
	}
	m.mu.Unlock()
	if !known && room {
		m.changed()
	}
	return known || room
}

// hasRoomLocked reports whether there may be one more subscription.
func (m *merged) hasRoomLocked(uri string) bool {
	size := len(uri)
	for s := range m.subscribed {
		size += len(s.uri)
	}
	return len(m.subscribed) < maxSubscriptions && size <= maxSubscribed
}

func (m *merged) unsubscribe(p *part, uri string) {
	m.mu.Lock()
	key := subscription{p.upstream.Name, uri}
	known := m.subscribed[key]
	delete(m.subscribed, key)
	if len(m.subscribed) == 0 {
		m.subscribed = nil
	}
	m.mu.Unlock()
	if known {
		m.changed()
	}
}

// subscription is a resource that the client is subscribed to.
type subscription struct{ part, uri string }

// subscriptionsLocked returns the URIs that the client is subscribed to at a part.
func (m *merged) subscriptionsLocked(part string) (uris []string) {
	for s := range maps.Keys(m.subscribed) {
		if s.part == part {
			uris = append(uris, s.uri)
		}
	}
	slices.Sort(uris)
	return uris
}

// byReference serves a request for completions of an argument.
func (m *merged) byReference(ctx context.Context, r *request) (*http.Response, error) {
	kind, step := catalogue.Prompts, "name"
	if ref, _ := mcp.Unquote(r.param("ref", "type")); ref == "ref/resource" {
		kind, step = catalogue.Templates, "uri"
	}
	name, ok := mcp.Unquote(r.param("ref", step))
	if !ok {
		return r.refuse(mcp.CodeInvalidParams, "params.ref names nothing"), nil
	}
	f := m.route(ctx, kind, name)
	if f.part == nil && kind == catalogue.Templates {
		f = m.route(ctx, catalogue.Resources, name)
	}
	if f.part == nil {
		return r.refuse(mcp.CodeInvalidParams, "Unknown reference: "+name), nil
	}
	body := r.splice([][]string{{"params", "ref", step}}, func(int, []byte) []byte { return replacement(name, f.name) })
	return m.callFound(ctx, r, f, body, asked{})
}

// byTask serves a request for a task.
func (m *merged) byTask(ctx context.Context, r *request) (*http.Response, error) {
	name, own, ok := unmarkTask(r.param("taskId"))
	p := m.part(name)
	if !ok || p == nil {
		return r.refuse(mcp.CodeInvalidParams, "Unknown task"), nil
	}
	body := r.splice([][]string{{"params", "taskId"}}, func(int, []byte) []byte { return own })
	return m.call(ctx, r, p, body, asked{tasks: true})
}

// byMethod serves a request that is not one of the protocol as we know it: by the only
// part that could mean it, which is the only one, or the only one with a capability of
// that name.
func (m *merged) byMethod(ctx context.Context, r *request) (*http.Response, error) {
	if p := m.only(r.message.Method); p != nil {
		return m.call(ctx, r, p, r.body, asked{})
	}
	return r.refuse(mcp.CodeMethodNotFound, "Method not found: "+clip(r.message.Method, 128)), nil
}

func (m *merged) only(method string) *part {
	space, _, _ := strings.Cut(method, "/")
	m.mu.Lock()
	defer m.mu.Unlock()
	var found []*part
	for _, p := range m.parts {
		if p.now != nil && (p.now.offers.has(space) || len(m.parts) == 1) {
			found = append(found, p)
		}
	}
	if len(found) != 1 {
		return nil
	}
	return found[0]
}

// mayLog reports whether a part logs, one that is not open included.
func (m *merged) mayLog() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.ContainsFunc(m.parts, func(p *part) bool { return m.offersLocked(p).logging })
}

// setLevel serves logging/setLevel: it goes to all that log, and to those that are
// opened later.
func (m *merged) setLevel(ctx context.Context, r *request) (*http.Response, error) {
	var links []*link
	for _, l := range m.open() {
		if l.offers.logging {
			links = append(links, l)
		}
	}
	level := r.param("level")
	if len(level) > 64 || len(level) == 0 {
		return r.refuse(mcp.CodeInvalidParams, "params.level is not a log level"), nil
	}
	if err := r.Dispatch.LetOut(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	changed := !bytes.Equal(m.level, level)
	m.level = slices.Clone(level)
	m.mu.Unlock()
	if changed {
		m.changed()
	}
	bounded, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	errs := each(links, func(l *link) error {
		_, err := m.ask(bounded, l, mcp.MethodSetLevel, r.message.Params)
		return err
	})
	refused := (*failure)(nil)
	for i, err := range errs {
		if err == nil {
			return result(r.message.ID, []byte("{}")), nil
		}
		m.log.Warn("log level not set", "upstream", links[i].upstream.Name, "error", err)
		errors.As(err, &refused)
	}
	switch {
	case refused != nil:
		body := append(append([]byte(`{"jsonrpc":"2.0","id":`), r.message.ID...), `,"error":`...)
		return answerJSON(http.StatusOK, append(append(body, refused.raw...), '}')), nil
	case len(links) > 0:
		return m.failed(r, links[0].part, errs[0]), nil
	case m.mayLog():
		return result(r.message.ID, []byte("{}")), nil
	}
	return r.refuse(mcp.CodeMethodNotFound, "Method not found: "+mcp.MethodSetLevel), nil
}
