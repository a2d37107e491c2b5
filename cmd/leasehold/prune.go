package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/leasehold/leasehold/cmd/internal/operator"
	"github.com/leasehold/leasehold/cmd/internal/usage"
	"github.com/leasehold/leasehold/controlplane/gateway"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// selector says among which gateways --prune deletes.
type selector struct {
	text   string
	filter gateway.Filter
}

// parse reads the text. An empty one would select every gateway that there is.
func (s *selector) parse() error {
	filter, violations := gateway.ParseFilter(s.text)
	if len(violations) > 0 {
		return usage.Errorf("--selector: %s", violations[0].Description)
	}
	if filter.All() {
		return usage.Errorf("--prune needs --selector, which says what may be deleted")
	}
	s.filter = filter
	return nil
}

// covers says which gateways do not match: once they were in no file any more, they
// would stay for ever.
func (s *selector) covers(documents []document) error {
	var errs []error
	for _, d := range documents {
		if !s.filter.Matches(d.gateway) {
			errs = append(errs, fmt.Errorf("%s in %s does not match --selector '%s', and so would never be pruned; nothing was written", d.gateway.GetName(), d.file, s.text))
		}
	}
	return errors.Join(errs...)
}

// toPrune returns the gateways that match the selector and are in no file, which
// somebody has agreed to. Where a file could not be read it returns none.
func (a *application) toPrune(ctx context.Context, documents []document) ([]*leaseholdv1.Gateway, error) {
	if err := a.selector.covers(documents); err != nil {
		return nil, err
	}
	if a.report.failed > 0 {
		return nil, nil // of what is in it, nothing is known
	}
	ctx, conn, closeAll, err := a.to.connect(ctx)
	if err != nil {
		return nil, err
	}
	matching, err := gateways(a.selector.text).all(ctx, conn)
	closeAll()
	if err != nil {
		return nil, operator.Explain(err)
	}
	extra := unnamed(matching, documents)
	if len(extra) == 0 || a.yes || a.dryRun {
		return extra, nil
	}
	if err := confirm(a.stdin, a.stderr, a.pruneQuestion(extra)); err != nil {
		return nil, fmt.Errorf("nothing was written: %w", err)
	}
	return extra, nil
}

// unnamed returns those of all that are in no file.
func unnamed(all []*leaseholdv1.Gateway, documents []document) []*leaseholdv1.Gateway {
	named := make(map[string]bool, len(documents))
	for _, d := range documents {
		named[d.gateway.GetName()] = true
	}
	var extra []*leaseholdv1.Gateway
	for _, one := range all {
		if !named[one.GetName()] {
			extra = append(extra, one)
		}
	}
	return extra
}

// pruneQuestion says what would be deleted.
func (a *application) pruneQuestion(extra []*leaseholdv1.Gateway) string {
	var text strings.Builder
	fmt.Fprintf(&text, "In no file, but matching %s:\n\n", a.selector.text)
	for _, one := range extra {
		fmt.Fprintf(&text, "  %s (%d sessions)\n", one.GetName(), one.GetStatus().GetSessions())
	}
	text.WriteString("\nThey are deleted and their sessions end, once what is in the files is applied.\nIs that right?")
	return text.String()
}

// pruneAll deletes the gateways that are extra, as they were when they were listed.
func (a *application) pruneAll(ctx context.Context, w writer, extra []*leaseholdv1.Gateway) error {
	if !a.prune {
		return nil
	}
	if a.report.failed > 0 || a.report.unapplied > 0 {
		fmt.Fprintln(a.stderr, "note: nothing is pruned, as not everything in the files is applied")
		return nil
	}
	for _, one := range extra {
		err := a.pruneOne(ctx, w, one)
		if operator.Code(err) == codes.NotFound {
			continue // somebody else deleted it meanwhile
		}
		status, deleted := operator.Unapplied(err)
		if err != nil && !deleted {
			a.report.failed++
			a.failed(one.GetName(), fmt.Errorf("prune: %w", operator.Explain(err)))
			continue
		}
		a.report.pruned++
		if err := a.say(one.GetName(), pruned); err != nil {
			return err
		}
		if deleted {
			a.report.unapplied++
			a.failed(one.GetName(), undeleted(status))
		}
	}
	return nil
}

func (a *application) pruneOne(ctx context.Context, w writer, one *leaseholdv1.Gateway) error {
	if w.validateOnly {
		return nil
	}
	request := &leaseholdv1.DeleteGatewayRequest{Name: one.GetName(), Etag: one.GetEtag()}
	return deleteGateway(ctx, w.api, request, a.wait)
}
