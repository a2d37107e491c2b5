package merge

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
)

// unknown is the error for a call that may have been carried out.
func (m *merged) unknown(r *request, l *link, err error) *mcp.Error {
	m.log.Warn("outcome unknown", "upstream", l.upstream.Name, "error", err)
	name := l.upstream.Name
	why := fmt.Sprintf("upstream %q did not answer", name)
	if errors.Is(err, session.ErrSilent) {
		why = fmt.Sprintf("upstream %q was silent for %v", name, m.definitionOf(l).ResponseTimeout)
		m.giveUp(l, r.message.ID)
	}
	data := []byte(`{"executed":"unknown"`)
	if tool, ok := mcp.Unquote(r.message.Name); ok && r.message.Method == mcp.MethodToolsCall {
		data = mcp.AppendQuoted(append(data, `,"tool":`...), tool)
	}
	data = append(mcp.AppendQuoted(append(data, `,"upstream":`...), name), '}')
	return &mcp.Error{Code: mcp.CodeOutcomeUnknown, ID: r.message.ID, Data: data,
		Message: "outcome unknown: " + why + "; the request may have been carried out"}
}

// failed answers a request that a part certainly did not get.
func (m *merged) failed(r *request, p *part, err error) *http.Response {
	m.mu.Lock()
	name := p.upstream.Name
	m.mu.Unlock()
	m.log.Debug("upstream not reached", "upstream", name, "error", err)
	return refuse(http.StatusOK, &mcp.Error{Code: mcp.CodeUpstream, ID: r.message.ID, Data: notExecuted(name),
		Message: fmt.Sprintf("upstream %q %s; the request was not sent", name, reason(err))})
}

// refused answers a request to which a part had an answer of no use to a client. Whether
// the request was carried out is known only if it was this worker that did not let it.
func (m *merged) refused(r *request, l *link, err error) *http.Response {
	name := l.upstream.Name
	m.log.Warn("upstream failed", "upstream", name, "error", err)
	data := append(mcp.AppendQuoted([]byte(`{"upstream":`), name), '}')
	if status := (*statusError)(nil); errors.As(err, &status) && status.code == mcp.CodeUnavailable {
		data = notExecuted(name)
	}
	return refuse(http.StatusOK, &mcp.Error{Code: mcp.CodeUpstream, ID: r.message.ID, Data: data, Message: fmt.Sprintf("upstream %q %s", name, reason(err))})
}

// renewed answers a request that was not carried out since the upstream had lost its
// session, and that is not ours to repeat.
func (m *merged) renewed(r *request, l *link) *http.Response {
	name := l.upstream.Name
	return refuse(http.StatusOK, &mcp.Error{Code: mcp.CodeUpstreamRenewed, ID: r.message.ID, Data: notExecuted(name),
		Message: fmt.Sprintf("upstream %q had lost its session and gets a new one; the request was not carried out", name)})
}

func notExecuted(upstream string) []byte {
	return append(mcp.AppendQuoted([]byte(`{"executed":"no","upstream":`), upstream), '}')
}

// reason says for a client why a part could not be used.
func reason(err error) string {
	telling := session.Telling(nil)
	switch status := (*statusError)(nil); {
	case errors.As(err, &status):
		return status.Error()
	case errors.Is(err, errOutdated):
		return errOutdated.Error()
	case errors.As(err, &telling) && errors.Is(err, session.ErrNotSent):
		return "could not be reached: " + telling.ForClient()
	case errors.As(err, new(*failure)):
		return "refused: " + telling.ForClient()
	case errors.As(err, &telling):
		return telling.ForClient()
	case errors.Is(err, session.ErrNotSent):
		return "could not be reached"
	case errors.Is(err, errLost), errors.Is(err, errUnlisted), errors.Is(err, errOver), errors.Is(err, errClosed):
		return err.Error()
	}
	return "did not answer as the protocol has it"
}
