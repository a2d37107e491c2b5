package session

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/mcp"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// renewBudget is how much longer than its opening the making of a new upstream
// session in place of a lost one may take.
const renewBudget = 5 * time.Second

// errRenewed says that the upstream had lost its session, that there is a new one,
// and that the request was not carried out.
var errRenewed = errors.New("the upstream session is a new one")

// renewal is the opening of a new upstream session in place of one that was lost.
type renewal struct {
	done chan struct{} // closed when err is set
	err  error
}

// lostUpstream deals with an upstream that no longer knows its session, as the
// gateway's policy has it: the client's session ends, and the client starts again;
// or it goes on with a new upstream session, which errRenewed says.
func (s *Session) lostUpstream(ctx context.Context, w http.ResponseWriter, r *Request, lost *upstreamSession) error {
	if s.isMoving() {
		return errHanding // the request was not carried out, and whoever has the session next finds out too
	}
	if definition := s.definition(); definition != nil && definition.Reinitialize {
		err := s.renew(ctx, lost)
		switch moves := moving(ctx, err); {
		case err == nil:
			return errRenewed
		case moves != nil:
			return moves
		case ctx.Err() != nil && !errors.Is(context.Cause(ctx), errEnded):
			return nil // the client is gone; the session gets its new upstream session without it
		case errors.Is(err, ErrUnavailable) && !errors.Is(err, errEnded):
			mcp.WriteUnavailable(w, r.ID(), "the upstream had lost its session, and the control plane is away, where a new one is recorded")
			return nil
		}
		s.table.cfg.Logger.Warn("no new upstream session in place of the lost one", "gateway", s.gateway, "upstream", s.upstream().Name, "error", err)
	}
	if s.close(leaseholdv1.EndReason_END_REASON_UPSTREAM_LOST) {
		s.table.queue(s)
	}
	mcp.WriteSessionNotFound(w, r.ID())
	return nil
}

// answerRenewed answers a request that the upstream did not carry out, since it had
// lost its session, and that is not ours to send again: what it relied on is gone.
func (s *Session) answerRenewed(w http.ResponseWriter, r *Request) {
	status := http.StatusOK
	if r.ID() == nil {
		status = http.StatusBadGateway
	}
	mcp.WriteError(w, status, &mcp.Error{Code: mcp.CodeUpstreamRenewed, ID: r.ID(), Data: []byte(`{"executed":"no"}`),
		Message: fmt.Sprintf("upstream %q had lost its session and has a new one; the request was not carried out", s.upstream().Name)})
}

// renew opens a new upstream session in place of lost, unless that has happened
// already. However many requests find the session lost, one is opened.
func (s *Session) renew(ctx context.Context, lost *upstreamSession) error {
	s.mu.Lock()
	if s.up.Load() != lost {
		s.mu.Unlock()
		return nil
	}
	r := s.renewing
	if r == nil {
		r = &renewal{done: make(chan struct{})}
		if err := s.actLocked(func(ctx context.Context) { s.runRenewal(ctx, r) }); err != nil {
			s.mu.Unlock()
			return err
		}
		s.renewing = r
	}
	s.mu.Unlock()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *Session) runRenewal(ctx context.Context, r *renewal) {
	ctx, cancel := context.WithTimeout(ctx, startBudget+renewBudget)
	defer cancel()
	defer close(r.done)
	up, record, announce, err := s.reopen(ctx)
	switch {
	case err != nil:
	case s.adoptRenewed(up, announce):
		s.table.knowParts(s, record)
	default:
		err = errEnded
		s.abandonRenewed(ctx, up)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r.err = err
	s.renewing = nil
}

// adoptRenewed makes up the upstream session, unless the session is over.
func (s *Session) adoptRenewed(up *upstreamSession, announce [][]byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || s.dropped {
		return false
	}
	s.up.Store(up)
	s.stood.Store(false)
	s.asked, s.cursor = nil, "" // of the lost one
	s.announceLocked(announce)
	return true
}

// abandonRenewed ends an upstream session that came too late. One of a dropped
// session is somebody else's, as the record says, unless it cannot be.
func (s *Session) abandonRenewed(ctx context.Context, up *upstreamSession) {
	switch {
	case !s.isDropped():
		_ = s.table.endUpstream(context.WithoutCancel(ctx), up.of, up, s)
	case up.of.Pinned() || up.several():
		s.table.cfg.Upstream.Drop(up.of, up.id)
	}
}

// reopen opens an upstream session with what the client said at its beginning, and
// records it. It also returns the record, and what to tell the client.
func (s *Session) reopen(ctx context.Context) (*upstreamSession, *leaseholdv1.SessionRecord, [][]byte, error) {
	records, key := s.table.cfg.Records, s.digest.String()
	resolved, err := records.Resolve(ctx, s.gateway, key, nil, false)
	if err != nil {
		return nil, nil, nil, err
	}
	record := resolved.GetRecord()
	if record.GetWorker() != s.table.cfg.Worker || record.GetIncarnation() != s.incarnation || record.GetEpoch() != s.epoch || record.GetEnd() != nil {
		return nil, nil, nil, ErrLost
	}
	definition := s.definition()
	if definition == nil {
		return nil, nil, nil, errors.New("the gateway is gone")
	}
	up, result, err := s.initialize(ctx, definition.Upstream, record)
	if err != nil {
		return nil, nil, nil, err
	}
	abandon := func(err error) error {
		_ = s.table.endUpstream(context.WithoutCancel(ctx), up.of, up, nil)
		return err
	}
	next := proto.CloneOf(record)
	if err := s.table.note(next, s, up, definition.Revision); err != nil {
		return nil, nil, nil, abandon(err)
	}
	revision, err := records.Save(ctx, s.gateway, key, resolved.GetRevision(), next)
	switch {
	case errors.Is(err, ErrUnavailable), errors.Is(err, ErrNoRoom):
		// The next owner may find the lost session in the record, and do the same.
		s.table.cfg.Logger.Warn("new upstream session not recorded", "gateway", s.gateway, "session", s.digest, "error", err)
	case err != nil:
		return nil, nil, nil, abandon(fmt.Errorf("%w: %w", ErrLost, err))
	}
	if err == nil {
		s.revision.Store(revision)
	}
	s.table.cfg.Logger.Info("a new upstream session was opened in place of one that is over", "gateway", s.gateway, "session", s.digest, "upstream", up.of.Name)
	return up, next, listsOf(result).changed(), nil
}

// initialize opens an upstream session in the name of a recorded client.
func (s *Session) initialize(ctx context.Context, u *config.Upstream, record *leaseholdv1.SessionRecord) (*upstreamSession, []byte, error) {
	capabilities := record.GetClientCapabilities()
	if len(capabilities) == 0 {
		capabilities = []byte("{}")
	}
	body := append([]byte(`{"jsonrpc":"2.0","id":"leasehold","method":"initialize","params":{"protocolVersion":`), mcp.AppendQuoted(nil, s.version)...)
	body = append(append(body, `,"capabilities":`...), capabilities...)
	body = mcp.AppendQuoted(append(body, `,"clientInfo":{"name":`...), record.GetClient().GetName())
	body = append(mcp.AppendQuoted(append(body, `,"version":`...), record.GetClient().GetVersion()), "}}}"...)
	up := &upstreamSession{of: u}
	header := up.header()
	answer, err := s.table.cfg.Upstream.Do(withAddress(ctx, &up.address), &Dispatch{
		Upstream: u, Method: http.MethodPost, Header: header, Body: body, Silence: OpenBudget(u), Own: true, Gate: s, Session: (*unasked)(s)})
	if err != nil {
		return nil, nil, err
	}
	defer answer.Body.Close()
	up.id = answer.Header.Get(mcp.HeaderSessionID)
	fail := func(err error) (*upstreamSession, []byte, error) {
		_ = s.table.endUpstream(context.WithoutCancel(ctx), u, up, nil)
		return nil, nil, err
	}
	_, result, err := readInitialize(answer)
	switch {
	case err != nil:
		return fail(err)
	case answer.StatusCode != http.StatusOK || result == nil:
		return fail(fmt.Errorf("upstream answered initialize with HTTP %d", answer.StatusCode))
	}
	if up.version, err = mcp.ParseInitializeResult(result); err != nil {
		return fail(err)
	}
	if up.version != s.version {
		return fail(fmt.Errorf("upstream speaks %.32q now, and the client %s", up.version, s.version))
	}
	if up.id == "" {
		up.address = ""
	}
	if err := s.table.tell(ctx, u, up, []byte(`{"jsonrpc":"2.0","method":"`+mcp.MethodInitialized+`"}`), s); err != nil {
		return fail(err)
	}
	return up, result, nil
}

// listsOf returns the lists that an upstream has, by its answer to initialize.
func listsOf(result []byte) (of Lists) {
	for _, list := range [...]struct {
		of         Lists
		capability string
	}{{ToolLists, "tools"}, {PromptLists, "prompts"}, {ResourceLists, "resources"}} {
		if _, ok := mcp.Lookup(result, "capabilities", list.capability); ok {
			of |= list.of
		}
	}
	return of
}

// announceLocked tells the client something on its GET stream, now or when it opens
// one, and ends the upstream's stream, which was the lost session's: the client's
// end with it, and begin anew at the new one.
func (s *Session) announceLocked(events [][]byte) {
	s.announce = events
	if s.standing != nil && s.standing.lastWords(events) {
		s.announce = nil
	}
}
