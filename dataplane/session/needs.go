package session

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/leasehold/leasehold/dataplane/config"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Upstream makes requests to MCP servers. It is safe for concurrent use.
type Upstream interface {
	// Do sends a request once and returns the answer, whose body the caller
	// closes. It honours the httptrace.ClientTrace of ctx as far as GotConn.
	// ErrNotSent: the request certainly was not sent; any other error: nobody
	// knows.
	Do(ctx context.Context, d *Dispatch) (*http.Response, error)
	// Drop gives back what this worker has of the session id: it closes the connection,
	// or ends the process, that a session of a pinned upstream is, without which that
	// cannot go on, here or elsewhere. A session that is somebody else's goes on
	// there: nothing is sent. It does not wait; requests in flight may go on.
	Drop(u *config.Upstream, id string)
}

// Dispatch is one request to an upstream.
type Dispatch struct {
	Upstream *config.Upstream
	Method   string
	Header   http.Header
	Body     []byte
	// Address is where the replica is that has the upstream session, host:port.
	// Empty lets Do choose among the addresses of the URL's host.
	Address string
	// Silence is how long the upstream may say nothing while its answer is awaited
	// or read; then Do, or a read of the answer's body, fails with ErrSilent. 0
	// means any time.
	Silence time.Duration
	// Own says that the request is the worker's own, for the session that it names:
	// no client waits for its answer, and none has said what it may carry.
	Own bool
	// Gate is asked once the connection is there, which may take a while, just
	// before the first byte goes out; nil lets everything through.
	Gate Gate
	// Session lets out what an Upstream sends of its own accord for the session of the
	// request, now and later, until a newer request names another one. nil: nothing
	// changes.
	Session Gate
}

// LetOut asks d's gate, for an Upstream that answers d itself. It fails with ErrNotSent and
// why.
func (d *Dispatch) LetOut() error {
	if d.Gate == nil {
		return nil
	}
	if err := d.Gate.Pass(); err != nil {
		return fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	return nil
}

// Gate decides at the last moment whether a request may go out.
type Gate interface {
	// Pass returns nil, or why the request must not go out; Do then returns that
	// error together with ErrNotSent.
	Pass() error
}

// ErrNotSent says that a request certainly did not reach the upstream: no
// connection could be made, or its gate was closed.
var ErrNotSent = errors.New("upstream not reached")

// Telling is an error that says something which a client may be told.
type Telling interface {
	error
	// ForClient returns it.
	ForClient() string
}

// why returns what a client may be told of an error, to be put after what it is
// told in any case.
func why(err error) string {
	if telling := Telling(nil); errors.As(err, &telling) {
		return ": " + telling.ForClient()
	}
	return ""
}

// ErrSilent says that an upstream said nothing for longer than it may.
var ErrSilent = errors.New("the upstream said nothing")

// ErrReplicaGone says that the upstream's name no longer has the address that a
// request was for, which is not there either: what the replica knew is lost. It
// comes with ErrNotSent.
var ErrReplicaGone = errors.New("the replica that has the session is gone")

// Records is where session records are kept. It is safe for concurrent use. Its
// errors are the verdicts below.
type Records interface {
	// Claim records a new session.
	Claim(ctx context.Context, gateway, session string, record *leaseholdv1.SessionRecord) (revision int64, err error)
	// Resolve reads a session's record. openedBy is the worker that opened it, or nil;
	// measure asks also for how long its owner has not renewed its lease.
	Resolve(ctx context.Context, gateway, session string, openedBy *leaseholdv1.Peer, measure bool) (*leaseholdv1.ResolveResponse, error)
	// Save replaces the record that has the revision by another of the same owner, and
	// returns the new revision.
	Save(ctx context.Context, gateway, session string, revision int64, record *leaseholdv1.SessionRecord) (int64, error)
	// HandOver replaces the owner in the record that has the revision.
	HandOver(ctx context.Context, request *leaseholdv1.HandOverRequest) (*leaseholdv1.HandOverResponse, error)
	// End writes a session's tombstone.
	End(ctx context.Context, request *leaseholdv1.EndRequest) error
}

// Verdicts on what is asked of records.
var (
	// ErrNoRecord says that there is no record.
	ErrNoRecord = errors.New("no record of the session")
	// ErrStale says that the record changed since it was read: read it again.
	ErrStale = errors.New("session record changed meanwhile")
	// ErrRefused says that the record or the worker's own state rules the change
	// out: the session is held, ended, its owner alive, or this worker is not.
	ErrRefused = errors.New("refused by the control plane")
	// ErrNotAlive says that this worker's lease is gone. It comes with ErrRefused.
	ErrNotAlive = errors.New("this worker is not alive")
	// ErrTargetNotAlive says that the worker that a session was to be handed over to is
	// not alive. It comes with ErrRefused.
	ErrTargetNotAlive = errors.New("the receiver is not alive")
	// ErrUncertain says that nobody may decide yet: an owner without a lease may still
	// act. Nothing was changed; ask again later.
	ErrUncertain = errors.New("the owner may still act, nobody can take over yet")
	// ErrNoRoom says that the control plane's store is full. Nothing was changed; ask again
	// later.
	ErrNoRoom = errors.New("the control plane's store is full")
	// ErrUnavailable says that nobody answered in time: the outcome is unknown.
	ErrUnavailable = errors.New("control plane unavailable")
)

// Authority says whether this worker may dispatch. It is safe for concurrent use.
type Authority interface {
	// Incarnation returns the worker's incarnation, or 0 before it registered.
	Incarnation() int64
	// Holds reports whether incarnation may dispatch now.
	Holds(incarnation int64) bool
	// Await is Holds, but if the authority has lapsed only just now, it first waits for
	// a moment for it to come back.
	Await(incarnation int64) bool
}
