package merge

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

// open serves initialize: it opens the parts and answers once all are there or have
// failed, or when the time is up, for those that are there. The others join later.
func (u *Upstream) open(ctx context.Context, d *session.Dispatch) (*http.Response, error) {
	envelope, err := mcp.Parse(d.Body, mcp.Limits{})
	if err != nil || envelope.Batch || envelope.First().Method != mcp.MethodInitialize || envelope.First().ID == nil {
		return refuse(http.StatusBadRequest, &mcp.Error{Code: mcp.CodeInvalidRequest, Message: "a session begins with initialize"}), nil
	}
	message := envelope.First()
	client, err := clientOf(message.Params)
	if err != nil {
		return refuse(http.StatusBadRequest, &mcp.Error{Code: mcp.CodeInvalidParams, Message: "initialize: " + err.Error(), ID: message.ID}), nil
	}
	for {
		m, failed, err := u.openParts(ctx, d, client)
		switch {
		case err != nil:
			return nil, err
		case failed == nil:
			answer := result(message.ID, m.publish())
			m.redefine() // what changed before had nothing to do with it
			answer.Header[mcp.HeaderSessionID] = []string{m.id}
			return answer, nil
		case u.newest(d.Upstream) == m.definition:
			return refuse(http.StatusBadGateway, &mcp.Error{Code: mcp.CodeUpstream, ID: message.ID, Message: failed.message, Data: failed.data}), nil
		}
		// The definition has changed meanwhile, which may be why: it is tried by the new one.
	}
}

// openParts makes a session, or says why there is none.
func (u *Upstream) openParts(ctx context.Context, d *session.Dispatch, client session.Client) (*merged, *unopened, error) {
	m := u.newMerged(d.Upstream.Gateway, u.newest(d.Upstream), client)
	if m.gate = d.Session; m.gate == nil {
		m.gate = unguarded{}
	}
	m.caller = callerFields(d.Header)
	wake := make(chan struct{}, 1)
	first := *d // which may be used for longer than the request lasts
	first.Header, first.Body = d.Header.Clone(), bytes.Clone(d.Body)
	tries := m.beginAll(&first, wake)
	failed := m.await(ctx, tries, wake)
	if ctx.Err() != nil {
		m.abandon()
		return nil, nil, context.Cause(ctx)
	}
	if failed != nil {
		m.abandon()
		return m, failed, nil
	}
	u.put(m)
	return m, nil, nil
}

// unguarded lets everything out.
type unguarded struct{}

// Pass implements session.Gate.
func (unguarded) Pass() error { return nil }

// newest returns what makes a gateway's upstream of several, as it is defined now.
func (u *Upstream) newest(v *config.Upstream) *config.Merged {
	if g := u.cfg.World.Load().Gateways[v.Gateway]; g != nil && g.Upstream.Merged != nil {
		return g.Upstream.Merged
	}
	return v.Merged
}

// beginAll begins to open the parts that do not wait for their first use, and of the
// others those of which it is not known yet what they have. It returns the tries that
// initialize waits for,
// which tell wake when they are over.
func (m *merged) beginAll(d *session.Dispatch, wake chan<- struct{}) map[*part]*opening {
	tries := make(map[*part]*opening)
	for _, p := range m.parts {
		switch k := m.up.known.look(p.upstream); {
		case !p.upstream.Lazy:
			tries[p] = m.beginWith(p, d, wake)
		case k == nil:
			m.beginWith(p, d, nil)
		default:
			p.lists = k.lists
		}
	}
	return tries
}

// unopened says why there is no session.
type unopened struct {
	message string
	data    []byte
}

// await waits for the parts. It returns why there can be no session, or nil.
func (m *merged) await(ctx context.Context, tries map[*part]*opening, wake <-chan struct{}) *unopened {
	budget := openBudget(m.definition)
	timer := time.NewTimer(budget)
	defer timer.Stop()
	for late := false; ; {
		var missing []*part
		waits := false
		for _, p := range m.parts {
			try := tries[p]
			if try == nil {
				continue
			}
			switch over := try.isOver(); {
			case over && try.err == nil:
				continue
			case p.upstream.Required && (late || over):
				return m.unopened(tries, []*part{p}, budget)
			default:
				missing, waits = append(missing, p), waits || !over
			}
		}
		switch {
		case waits && !late:
		case len(missing) == len(m.parts):
			return m.unopened(tries, missing, budget)
		default:
			return nil
		}
		select {
		case <-wake:
		case <-timer.C:
			late = true
		case <-ctx.Done():
			return nil
		}
	}
}

// isOver reports whether a try is over.
func (try *opening) isOver() bool {
	select {
	case <-try.done:
		return true
	default:
		return false
	}
}

// unopened names each part that failed and why.
func (m *merged) unopened(tries map[*part]*opening, failed []*part, budget time.Duration) *unopened {
	var all []string
	data := []byte(`{"upstreams":[`)
	for i, p := range failed {
		why := (&tooLate{budget}).ForClient()
		if try := tries[p]; try.isOver() {
			why = reason(try.err)
		}
		all = append(all, fmt.Sprintf("upstream %q %s", p.upstream.Name, why))
		if i > 0 {
			data = append(data, ',')
		}
		data = mcp.AppendQuoted(append(data, `{"upstream":`...), p.upstream.Name)
		data = append(mcp.AppendQuoted(append(data, `,"error":`...), why), '}')
	}
	what := "no upstream could be opened: "
	if len(failed) < len(m.parts) {
		what = "a required upstream could not be opened: "
	}
	return &unopened{what + strings.Join(all, "; "), append(data, "]}"...)}
}

// publish lets the session be known, and returns the result of its initialize. What has
// failed is tried again from here on.
func (m *merged) publish() []byte {
	m.mu.Lock()
	m.published = true
	body := m.resultLocked()
	var failed []*part
	for _, p := range m.parts {
		if p.failed != nil {
			failed = append(failed, p)
		}
	}
	m.mu.Unlock()
	for _, p := range failed {
		m.up.reopen(p)
	}
	return body
}

// abandon ends a session that its client will not learn of.
func (m *merged) abandon() {
	m.up.take(m.id)
	for _, l := range m.end() {
		m.up.spawn(func() { m.endLink(l, nil) })
	}
}
