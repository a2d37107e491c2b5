package audit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/controlplane/gateway"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Entry is one line of the log. It belongs to the goroutine that serves the call.
type Entry struct {
	Time         time.Time `json:"time"`
	RequestID    string    `json:"request_id,omitempty"`
	Role         string    `json:"role,omitempty"`
	Name         string    `json:"name,omitempty"`
	Address      string    `json:"address,omitempty"`
	Method       string    `json:"method"`
	Resource     string    `json:"resource,omitempty"`
	ValidateOnly bool      `json:"validate_only,omitempty"`
	Before       string    `json:"before,omitempty"`
	After        string    `json:"after,omitempty"`
	Revision     int64     `json:"revision,omitempty"`
	Code         string    `json:"code"`
	Reason       string    `json:"reason,omitempty"`
	Omitted      int       `json:"omitted,omitempty"`
}

type entryKey struct{}

// With returns a context in which Of finds e.
func With(ctx context.Context, e *Entry) context.Context {
	return context.WithValue(ctx, entryKey{}, e)
}

// Of returns the entry of the call that is served, for what only the handler knows. It
// is never nil: what is noted of a call without one is lost.
func Of(ctx context.Context) *Entry {
	if e, ok := ctx.Value(entryKey{}).(*Entry); ok {
		return e
	}
	return &Entry{}
}

// Changed notes that a gateway was before, nil if it was not, and is now after.
func (e *Entry) Changed(before, after *leaseholdv1.Gateway) {
	if before != nil {
		e.Before = Digest(before)
	}
	e.After, e.Revision = Digest(after), after.GetStatus().GetRevision()
	e.Resource = after.GetName()
}

// Deleted notes that a gateway was deleted, at the revision in its status.
func (e *Entry) Deleted(before *leaseholdv1.Gateway) {
	e.Before, e.Revision = Digest(before), before.GetStatus().GetRevision()
}

// Digest returns a digest of what an operator says of a gateway, "sha256:" and
// hexadecimal digits. Definitions that are the same have the same, and so has one that
// was only read and written again. A secret counts by its fingerprint, which changes
// with its value.
func Digest(g *leaseholdv1.Gateway) string {
	definition := gateway.Shown(gateway.Definition(g))
	text, err := proto.MarshalOptions{Deterministic: true}.Marshal(definition)
	if err != nil {
		return "" // a text that is no UTF-8, which no valid definition has
	}
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:])
}
