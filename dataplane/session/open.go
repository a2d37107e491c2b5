package session

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/sessionid"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

const (
	// openBudget bounds initialize at the upstream: its answer must be there by then.
	openBudget = 5 * time.Second
	// startBudget is openBudget for an upstream that is a program: it may have to be
	// fetched first.
	startBudget = 30 * time.Second
	// mergeTime is how much longer than it waits for its parts an upstream of several may
	// take to answer.
	mergeTime = time.Second
	// claimBudget bounds the claim; a client waits for both at most.
	claimBudget = 2 * time.Second
	// maxCapabilities bounds the client's capabilities as they are recorded.
	maxCapabilities = 16 << 10
	// maxInitializeAnswer bounds the upstream's answer to initialize.
	maxInitializeAnswer = MaxEvent
)

// Open serves a client's initialize: it opens the upstream session with the
// client's own words, records the session with this worker as its owner, and
// only then answers. Whatever fails after the upstream named its session ends
// that session with DELETE.
func (t *Table) Open(ctx context.Context, w http.ResponseWriter, r *Request, message mcp.Message) {
	o, ok := t.prepare(w, r, message)
	if !ok {
		return
	}
	if !t.reserve() {
		t.writeFull(w, message.ID)
		return
	}
	if !o.run(ctx, w) {
		t.unreserve()
	}
}

// prepare returns the opening of a session, or answers why there can be none.
func (t *Table) prepare(w http.ResponseWriter, r *Request, message mcp.Message) (*opening, bool) {
	params, err := mcp.ParseInitializeParams(message.Params)
	if err != nil {
		mcp.WriteError(w, http.StatusBadRequest, &mcp.Error{Code: mcp.CodeInvalidParams, Message: "initialize: " + err.Error(), ID: message.ID})
		return nil, false
	}
	if len(params.Capabilities) > maxCapabilities {
		mcp.WriteError(w, http.StatusBadRequest, &mcp.Error{Code: mcp.CodeLimit, ID: message.ID,
			Message: fmt.Sprintf("params.capabilities has %d bytes, at most %d are accepted", len(params.Capabilities), maxCapabilities)})
		return nil, false
	}
	o := &opening{table: t, request: r, id: message.ID, params: params, world: t.cfg.World(), incarnation: t.cfg.Authority.Incarnation()}
	if o.gateway = o.world.Gateways[r.Gateway]; o.gateway == nil {
		mcp.WriteError(w, http.StatusNotFound, unknownGateway(r.Gateway, message.ID))
		return nil, false
	}
	if o.world.Ring == nil || !t.cfg.Authority.Holds(o.incarnation) {
		mcp.WriteUnavailable(w, message.ID, "this worker cannot open sessions now: it has no lease")
		return nil, false
	}
	return o, true
}

func (t *Table) writeFull(w http.ResponseWriter, id []byte) {
	mcp.WriteUnavailable(w, id, fmt.Sprintf("this worker owns %d sessions, which is its bound", t.cfg.Max))
}

func unknownGateway(id string, rpcID []byte) *mcp.Error {
	return &mcp.Error{Code: mcp.CodeInvalidRequest, ID: rpcID, Message: "no gateway " + id}
}

// opening is one initialize on its way.
type opening struct {
	table       *Table
	request     *Request
	id          []byte
	params      mcp.InitializeParams
	world       *config.Snapshot
	gateway     *config.Gateway
	incarnation int64
	connection  *Connection // of a client that has one, and with it the session id; nil without

	upstreamID string
	address    string
	version    string
}

// run reports whether the session came to be; its place is used then.
func (o *opening) run(ctx context.Context, w http.ResponseWriter) bool {
	// The client may leave while the upstream makes its session; then somebody
	// must still learn its id to end it.
	upCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	most := OpenBudget(o.gateway.Upstream)
	budget := time.AfterFunc(most, func() { cancel(fmt.Errorf("%w within %v", errBudget, most)) })
	defer budget.Stop()
	answer, err := o.table.cfg.Upstream.Do(withAddress(upCtx, &o.address), &Dispatch{
		Upstream: o.gateway.Upstream, Method: http.MethodPost, Header: o.request.Header, Body: o.request.Body, Gate: o, Session: o})
	if err != nil {
		o.answerFailure(upCtx, w, err)
		return false
	}
	defer answer.Body.Close()
	o.upstreamID = answer.Header.Get(mcp.HeaderSessionID)
	head, result, err := readInitialize(answer)
	if err != nil {
		o.abandon(ctx)
		o.answerFailure(upCtx, w, err)
		return false
	}
	budget.Stop()
	if answer.StatusCode != http.StatusOK || result == nil {
		o.abandon(ctx)
		o.relayRefusal(w, answer, head)
		return false
	}
	if o.version, err = mcp.ParseInitializeResult(result); err != nil {
		o.abandon(ctx)
		o.answerFailure(upCtx, w, err)
		return false
	}
	return o.establish(ctx, w, answer, head)
}

// Pass implements Gate: only a worker with a lease opens upstream sessions.
func (o *opening) Pass() error {
	if !o.table.cfg.Authority.Holds(o.incarnation) {
		return ErrFenced
	}
	return nil
}

// withAddress returns a context under which a request notes the network address
// that answers it.
func withAddress(ctx context.Context, address *string) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { *address = info.Conn.RemoteAddr().String() },
	})
}

// errBudget says that an upstream took too long to open a session.
var errBudget = errors.New("no answer to initialize")

// OpenBudget bounds initialize at u.
func OpenBudget(u *config.Upstream) time.Duration {
	if u.Merged != nil {
		return u.Merged.OpenTimeout + mergeTime
	}
	if u.Program != nil {
		return startBudget
	}
	return openBudget
}

// establish claims the session and answers the client.
func (o *opening) establish(ctx context.Context, w http.ResponseWriter, answer *http.Response, head []byte) bool {
	t := o.table
	created := t.now()
	id, err := o.mint(created)
	if err != nil {
		o.abandon(ctx)
		mcp.WriteError(w, http.StatusInternalServerError, &mcp.Error{Code: mcp.CodeInternal, Message: "no session id could be made", ID: o.id})
		return false
	}
	s := &Session{
		gateway: o.gateway.ID, digest: sessionid.DigestOf(id), epoch: 1, incarnation: o.incarnation,
		principal: sha256.Sum256([]byte(o.request.Principal)),
		version:   o.version, expires: created.Add(o.gateway.AbsoluteLifetime), slot: -1, connected: o.connection != nil,
	}
	up := &upstreamSession{of: o.gateway.Upstream, id: o.upstreamID, version: o.version}
	if up.id != "" {
		up.address = o.address
	}
	s.up.Store(up)
	record, err := o.record(s, created)
	recorded := false
	if err == nil {
		recorded, err = o.claim(ctx, s, record)
	}
	if err != nil {
		t.cfg.Logger.Warn("session not claimed", "gateway", s.gateway, "error", err)
		o.abandon(ctx)
		mcp.WriteUnavailable(w, o.id, "the session could not be recorded")
		return false
	}
	if !t.insert(s, o.gateway.IdleTimeout) {
		o.abandon(ctx)
		mcp.WriteUnavailable(w, o.id, "this worker lost its lease while the session was opened")
		return true // the place was given back
	}
	if !recorded {
		t.recordLater(s, record)
	}
	t.knowParts(s, record)
	t.metrics.opened.WithLabelValues("initialize").Inc()
	// What changed meanwhile found no session to end.
	reason := mismatch(s.upstream(), t.cfg.World().Gateways[s.gateway])
	if reason == 0 && (ctx.Err() != nil || o.connection != nil && !o.connection.attach(s)) {
		reason = leaseholdv1.EndReason_END_REASON_OPEN_FAILED
	}
	if reason != 0 {
		t.End(s.digest, reason)
		mcp.WriteUnavailable(w, o.id, "the gateway changed while the session was opened")
		return true
	}
	w.Header()[mcp.HeaderSessionID] = []string{id}
	o.write(w, answer, head)
	if ctx.Err() != nil {
		t.End(s.digest, leaseholdv1.EndReason_END_REASON_OPEN_FAILED)
	}
	return true
}

// mint returns the session's id.
func (o *opening) mint(created time.Time) (string, error) {
	if o.connection != nil {
		return o.connection.id, nil
	}
	return o.world.Ring.Mint(sessionid.Hint{Worker: o.table.cfg.Worker, Incarnation: o.incarnation, Created: created}, o.gateway.ID, o.request.Principal)
}

func (o *opening) record(s *Session, created time.Time) (*leaseholdv1.SessionRecord, error) {
	record := &leaseholdv1.SessionRecord{
		Worker: o.table.cfg.Worker, Incarnation: o.incarnation, Epoch: s.epoch,
		PrincipalDigest: s.principal[:], ProtocolVersion: o.version,
		Client:             &leaseholdv1.ClientInfo{Name: clip(o.params.ClientName), Version: clip(o.params.ClientVersion)},
		ClientCapabilities: o.params.Capabilities,
		CreateTime:         timestamppb.New(created), ExpireTime: timestamppb.New(s.expires),
	}
	err := o.table.note(record, s, s.up.Load(), o.gateway.Revision)
	return record, err
}

// claim makes the session durable, and reports whether it is. When the control plane
// is away, or has no room, it is not yet: whether a claim that was sent took effect or not, nobody else
// can own the session while this worker may dispatch.
func (o *opening) claim(ctx context.Context, s *Session, record *leaseholdv1.SessionRecord) (bool, error) {
	t := o.table
	if t.cfg.Away != nil && t.cfg.Away() {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimBudget)
	defer cancel()
	revision, err := t.cfg.Records.Claim(ctx, s.gateway, s.digest.String(), record)
	if errors.Is(err, ErrUnavailable) || errors.Is(err, ErrNoRoom) {
		return false, nil
	}
	s.revision.Store(revision)
	return err == nil, err
}

// sealContext binds a sealed upstream session id to its place, so that one
// record's cannot be put into another.
func sealContext(d sessionid.Digest, upstream string) string { return d.String() + "/" + upstream }

func classOf(upstream *config.Upstream, upstreamID string) leaseholdv1.Class {
	switch {
	case upstream.Pinned():
		return leaseholdv1.Class_CLASS_PINNED
	case upstreamID == "":
		return leaseholdv1.Class_CLASS_REBUILDABLE
	}
	return leaseholdv1.Class_CLASS_RESUMABLE
}

// clip bounds text that is kept for information only.
func clip(s string) string { return strings.ToValidUTF8(s[:min(len(s), 256)], "") }

// readInitialize reads the answer to initialize: all of a JSON body, or a stream
// as far as the answer in it. result is nil when the answer is an error or is
// not JSON-RPC.
func readInitialize(answer *http.Response) (head, result []byte, err error) {
	if !isEventStream(answer.Header) {
		body, err := io.ReadAll(io.LimitReader(answer.Body, maxInitializeAnswer+1))
		if err != nil {
			return nil, nil, err
		}
		if len(body) > maxInitializeAnswer {
			return nil, nil, fmt.Errorf("answer to initialize has more than %d bytes", maxInitializeAnswer)
		}
		result, _ := mcp.Lookup(body, "result")
		return body, result, nil
	}
	events := mcp.NewEventReader(answer.Body, maxInitializeAnswer)
	for len(head) <= maxInitializeAnswer {
		event, err := events.Next()
		if err == io.EOF {
			return nil, nil, errors.New("stream ended without an answer to initialize")
		}
		if err != nil {
			return nil, nil, err
		}
		head = append(head, event.Raw...)
		if data := event.Data(nil); mcp.IsResponse(data) {
			result, _ := mcp.Lookup(bytes.Clone(data), "result")
			return head, result, nil
		}
	}
	return nil, nil, fmt.Errorf("stream of initialize has more than %d bytes before its answer", maxInitializeAnswer)
}

// write answers initialize with the upstream's own bytes. What an upstream sends
// on that stream after its answer is not waited for: the client's other streams
// carry such messages.
func (o *opening) write(w http.ResponseWriter, answer *http.Response, head []byte) {
	copyRelayed(w.Header(), answer.Header)
	w.Header()["Content-Length"] = []string{strconv.Itoa(len(head))}
	w.WriteHeader(answer.StatusCode)
	w.Write(head)
}

// relayRefusal passes on that the upstream does not open a session.
func (o *opening) relayRefusal(w http.ResponseWriter, answer *http.Response, head []byte) {
	code := answer.StatusCode
	if code == http.StatusUnauthorized || code == http.StatusForbidden || code == http.StatusNotFound || code >= 300 && code < 400 {
		o.table.cfg.Logger.Warn("upstream refused initialize", "gateway", o.gateway.ID, "upstream", o.gateway.Upstream.Name, "status", code)
		mcp.WriteError(w, http.StatusBadGateway, &mcp.Error{Code: mcp.CodeUpstream, ID: o.id,
			Message: fmt.Sprintf("upstream %q answered HTTP %d to initialize", o.gateway.Upstream.Name, code)})
		return
	}
	o.write(w, answer, head)
}

// answerFailure answers an initialize for which the upstream gave no usable
// answer. Nothing is left of it: the client may simply repeat it.
func (o *opening) answerFailure(ctx context.Context, w http.ResponseWriter, err error) {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if errors.Is(err, ErrFenced) {
		mcp.WriteUnavailable(w, o.id, "this worker cannot open sessions now: its lease is uncertain")
		return
	}
	o.table.cfg.Logger.Warn("upstream session not opened", "gateway", o.gateway.ID, "upstream", o.gateway.Upstream.Name, "error", err)
	what := "did not answer initialize as the protocol has it"
	switch {
	case errors.Is(err, ErrNotSent):
		what = "could not be reached" + why(err)
	case errors.Is(err, errBudget):
		what = err.Error()
	}
	mcp.WriteError(w, http.StatusBadGateway, &mcp.Error{Code: mcp.CodeUpstream, ID: o.id,
		Message: fmt.Sprintf("upstream %q: %s", o.gateway.Upstream.Name, what)})
}

// abandon ends the upstream session that will not be used. Nobody else can have
// it: its client never learned of the session.
func (o *opening) abandon(ctx context.Context) {
	_ = o.table.endUpstream(context.WithoutCancel(ctx), o.gateway.Upstream, &upstreamSession{id: o.upstreamID, version: o.version, address: o.address}, nil)
}

// upstreamSession is what names a session at its upstream.
type upstreamSession struct {
	of      *config.Upstream // what it was opened with, and is ended with
	id      string           // empty if the upstream gave none
	version string           // negotiated with the upstream
	address string           // of the replica that has the session; empty without an id
	over    bool             // there is none any more, and requests need a new one

	// Guarded by the session's mu:
	users int           // requests under way
	idle  chan struct{} // closed when there are none, once it is retired; nil before
}

var userAgent = []string{"leasehold"}

// endUpstream ends an upstream session with DELETE, if there is one. It is
// bounded, and what it cannot end the upstream's own idle timeout has to. gate
// may be nil: nobody else can have the session then. The error, which is logged,
// says why nothing was heard of the upstream.
func (t *Table) endUpstream(ctx context.Context, u *config.Upstream, up *upstreamSession, gate Gate) error {
	if up.id == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	header := http.Header{mcp.HeaderSessionID: {up.id}, "User-Agent": userAgent}
	if up.version != "" {
		header[mcp.HeaderProtocolVersion] = []string{up.version}
	}
	answer, err := t.cfg.Upstream.Do(ctx, &Dispatch{Upstream: u, Method: http.MethodDelete, Header: header, Address: up.address, Own: true, Gate: gate})
	if err != nil {
		t.cfg.Logger.Warn("upstream session not ended", "upstream", u.Name, "error", err)
		return err
	}
	defer answer.Body.Close()
	io.Copy(io.Discard, io.LimitReader(answer.Body, wholeAnswer)) // so that the connection can be used again
	if answer.StatusCode >= 300 && answer.StatusCode != http.StatusNotFound && answer.StatusCode != http.StatusMethodNotAllowed {
		t.cfg.Logger.Warn("upstream refused to end its session", "upstream", u.Name, "status", answer.StatusCode)
	}
	return nil
}
