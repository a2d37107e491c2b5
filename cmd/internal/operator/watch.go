package operator

import (
	"context"
	"errors"
	"maps"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Resource is what can be watched.
type Resource interface {
	proto.Message
	GetName() string
}

// Change is one message of a watch.
type Change[M Resource] struct {
	// Type is what happened.
	Type leaseholdv1.ChangeType
	// Resource is the resource; unset in a bookmark.
	Resource M
	// Revision is what to resume after.
	Revision int64
}

// Watch follows the resources of one kind for as long as it may, whatever
// becomes of the replica that tells it. A stream that broke is resumed by
// revision, at the next replica. Where that is no longer possible, all resources
// are read again, and what differs from what was known is told as changes. So
// nothing is told twice, and what there is in the end has been told.
//
//	reading all ──bookmark──▶ following ──broken──▶ resuming ──▶ following
//	     ▲                        └──────compacted──────┐
//	     └──────────────────────────────────────────────┘
type Watch[M Resource] struct {
	// Control are the control plane's addresses.
	Control []string
	// Open opens a stream that resumes after a revision, and returns what
	// receives from it.
	Open func(ctx context.Context, conn *grpc.ClientConn, revision int64) (func() (Change[M], error), error)
	// Tell is told all resources, a bookmark, and then each change. An error of
	// it ends the watch.
	Tell func(Change[M]) error
	// Note is told when the stream was lost and when it is back.
	Note func(text string)

	known    map[string]M // what was told
	revision int64        // of the last message after a bookmark; 0: read all
	begun    bool         // a bookmark was told
}

// tellError is an error of Tell, which ends the watch.
type tellError struct{ err error }

func (e *tellError) Error() string { return e.err.Error() }

// Run watches until ctx ends, and returns its cause then. Otherwise it ends only
// when no replica can be reached to begin with, or with an answer that another
// replica would give too.
func (w *Watch[M]) Run(ctx context.Context) error {
	w.known = map[string]M{}
	turns := newTurns(w.Control, w.Note)
	for {
		err := w.once(ctx, turns.addresses, turns.heard)
		var told *tellError
		var unreachable *UnreachableError
		switch {
		case errors.As(err, &told):
			return told.err
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case Code(err) == codes.OutOfRange && w.revision > 0:
			w.revision = 0 // too long ago: read all again
			continue
		case final(err), !w.begun && errors.As(err, &unreachable):
			return Explain(err)
		}
		if err := turns.next(ctx, err); err != nil {
			return err
		}
	}
}

// once watches over one stream. heard is called when something came.
func (w *Watch[M]) once(ctx context.Context, addresses []string, heard func()) error {
	conn, err := Dial(ctx, addresses)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	receive, err := w.Open(ctx, conn, w.revision)
	if err != nil {
		return err
	}
	if w.revision == 0 {
		if err := w.readAll(receive, heard); err != nil {
			return err
		}
	}
	for {
		change, err := receive()
		if err != nil {
			return err
		}
		heard()
		if change.Type != leaseholdv1.ChangeType_CHANGE_TYPE_BOOKMARK {
			if err := w.tell(change); err != nil {
				return err
			}
		}
		w.revision = change.Revision
	}
}

// readAll receives up to the bookmark and tells what was not known. Until then
// the stream cannot be resumed, only begun again.
func (w *Watch[M]) readAll(receive func() (Change[M], error), heard func()) error {
	found := map[string]M{}
	for {
		change, err := receive()
		if err != nil {
			return err
		}
		heard()
		switch change.Type {
		case leaseholdv1.ChangeType_CHANGE_TYPE_PUT:
			found[change.Resource.GetName()] = change.Resource
		case leaseholdv1.ChangeType_CHANGE_TYPE_REMOVED:
			delete(found, change.Resource.GetName())
		case leaseholdv1.ChangeType_CHANGE_TYPE_BOOKMARK:
			if err := w.reconcile(found, change.Revision); err != nil {
				return err
			}
			w.revision = change.Revision
			if w.begun {
				return nil
			}
			w.begun = true
			return w.tell(change)
		}
	}
}

// reconcile tells how what was found differs from what was known.
func (w *Watch[M]) reconcile(found map[string]M, revision int64) error {
	for _, name := range slices.Sorted(maps.Keys(w.known)) {
		if _, ok := found[name]; ok {
			continue
		}
		if err := w.tell(Change[M]{Type: leaseholdv1.ChangeType_CHANGE_TYPE_REMOVED, Resource: w.known[name], Revision: revision}); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(found)) {
		if old, ok := w.known[name]; ok && proto.Equal(old, found[name]) {
			continue
		}
		if err := w.tell(Change[M]{Type: leaseholdv1.ChangeType_CHANGE_TYPE_PUT, Resource: found[name], Revision: revision}); err != nil {
			return err
		}
	}
	return nil
}

// tell tells one change and remembers it.
func (w *Watch[M]) tell(change Change[M]) error {
	switch change.Type {
	case leaseholdv1.ChangeType_CHANGE_TYPE_PUT:
		w.known[change.Resource.GetName()] = change.Resource
	case leaseholdv1.ChangeType_CHANGE_TYPE_REMOVED:
		delete(w.known, change.Resource.GetName())
	}
	if err := w.Tell(change); err != nil {
		return &tellError{err: err}
	}
	return nil
}
