package route

import (
	"errors"
	"time"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Target is who is expected to own a session.
type Target struct {
	Worker      string
	Incarnation int64
	// Epoch that the owner is expected to hold; 0 asks the receiver to take the
	// session over if its owner is dead.
	Epoch   uint64
	Address string
	// Settings are those of the gateway that the front knows.
	Settings Settings
	// Patience is how long the receiver may take to admit the request.
	Patience time.Duration
}

// What a forward can come to when the owner gave no answer.
var (
	// ErrNotSent says that the request certainly did not reach the owner.
	ErrNotSent = errors.New("owner not reached")
	// ErrRefused says that the receiver is not the session's owner as expected
	// and did nothing. A session.Moved comes with it if the receiver knows who is.
	ErrRefused = errors.New("refused by the receiver")
	// ErrBrokeOff says that a stream of events was written in part, up to the end of
	// an event, and broke off without the answer: one more event can be added.
	ErrBrokeOff = errors.New("the stream of the owner broke off")
	// ErrOutcomeUnknown says that the connection broke before an answer: the
	// request may have been carried out and must not be sent again.
	ErrOutcomeUnknown = errors.New("connection to the owner broke")
)

// Refusal is why a worker does not serve a request that was forwarded to it.
// Nothing was dispatched.
type Refusal leaseholdv1.Refusal

// The refusals.
const (
	NotOwner         = Refusal(leaseholdv1.Refusal_REFUSAL_NOT_OWNER)
	StaleEpoch       = Refusal(leaseholdv1.Refusal_REFUSAL_STALE_EPOCH)
	StaleIncarnation = Refusal(leaseholdv1.Refusal_REFUSAL_STALE_INCARNATION)
	Fenced           = Refusal(leaseholdv1.Refusal_REFUSAL_FENCED)
	Closing          = Refusal(leaseholdv1.Refusal_REFUSAL_CLOSING)
	Over             = Refusal(leaseholdv1.Refusal_REFUSAL_OVER)
	Behind           = Refusal(leaseholdv1.Refusal_REFUSAL_BEHIND)
)

// Error makes a refusal an error.
func (r Refusal) Error() string { return "forward refused: " + leaseholdv1.Refusal(r).String() }
