// Package inspect connects to an upstream as it is done for sessions, and says what it
// finds there, or by which step it failed and why.
package inspect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/leasehold/leasehold/dataplane/config"
	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/session"
	"github.com/leasehold/leasehold/dataplane/visit"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Bounds of what is kept of an answer.
const (
	maxText         = 256
	maxVersions     = 16
	maxCapabilities = 64
)

// Steps that are made.
const (
	stepCredential = leaseholdv1.InspectionStepKind_INSPECTION_STEP_KIND_CREDENTIAL
	stepResolve    = leaseholdv1.InspectionStepKind_INSPECTION_STEP_KIND_RESOLVE
	stepConnect    = leaseholdv1.InspectionStepKind_INSPECTION_STEP_KIND_CONNECT
	stepTLS        = leaseholdv1.InspectionStepKind_INSPECTION_STEP_KIND_TLS
	stepStart      = leaseholdv1.InspectionStepKind_INSPECTION_STEP_KIND_START
	stepHTTP       = leaseholdv1.InspectionStepKind_INSPECTION_STEP_KIND_HTTP
	stepInitialize = leaseholdv1.InspectionStepKind_INSPECTION_STEP_KIND_INITIALIZE
	stepDiscover   = leaseholdv1.InspectionStepKind_INSPECTION_STEP_KIND_DISCOVER
	stepEnd        = leaseholdv1.InspectionStepKind_INSPECTION_STEP_KIND_END
)

// inspection is one look at an upstream.
type inspection struct {
	upstream *config.Upstream
	visit    *visit.Visit
	steps    *steps
	report   *leaseholdv1.UpstreamInspection
	offers   map[string]json.RawMessage // the server's capabilities
	room     int                        // bytes that may still be listed
}

// Inspect opens a session at u, looks around, and ends the session. requests makes the
// requests, over new connections: it says how each came about to the trace of their
// context. It returns soon after ctx ends.
func Inspect(ctx context.Context, requests session.Upstream, u *config.Upstream) *leaseholdv1.UpstreamInspection {
	i := &inspection{upstream: u, steps: newSteps(u), report: &leaseholdv1.UpstreamInspection{Upstream: u.Name}, room: maxListed}
	i.visit = visit.New(visit.Config{Upstream: u, HTTP: opener{requests, i.steps}, Client: "leasehold-inspect", MaxAnswer: session.MaxEvent})
	err := i.open(ctx)
	if err == nil {
		i.list(ctx)
	}
	if i.visit.HasID() {
		i.end(ctx)
	}
	if u.Transport == leaseholdv1.Transport_TRANSPORT_STREAMABLE_HTTP && (err == nil || answered(err)) {
		i.discover(ctx)
	}
	i.report.Steps = i.steps.finish()
	return i.report
}

// open begins the session, within the time that it has for clients.
func (i *inspection) open(ctx context.Context) error {
	i.noteCaller()
	budget := session.OpenBudget(i.upstream)
	ctx, cancel := context.WithTimeoutCause(i.steps.watch(ctx), budget, fmt.Errorf("no answer to initialize within %v", budget))
	defer cancel()
	defer i.steps.settle()
	result, err := i.visit.Open(ctx)
	if err != nil {
		i.steps.fail(i.explain(err))
		return err
	}
	i.read(result)
	return nil
}

// answered reports whether err is what a server answered.
func answered(err error) bool {
	return errors.As(err, new(*visit.StatusError)) || errors.As(err, new(*visit.AnswerError))
}

// noteCaller says that a field of the caller's own is not there without a caller.
func (i *inspection) noteCaller() {
	if c := i.upstream.Credential; c != nil && c.CallerHeader != "" {
		i.steps.note(fmt.Sprintf("nothing is sent as %s: it is passed on from the callers, and an inspection has none", c.CallerHeader))
	}
}

// explain puts what a status means here to why a session was not opened.
func (i *inspection) explain(err error) string {
	text := reason(err)
	refused := (*visit.StatusError)(nil)
	switch c := i.upstream.Credential; {
	case !errors.As(err, &refused):
	case refused.Status >= 300 && refused.Status < 400:
		text += ": redirects are not followed"
	case c != nil && c.CallerHeader != "" && (refused.Status == http.StatusUnauthorized || refused.Status == http.StatusForbidden):
		text += ": it wants the " + c.CallerHeader + " of a caller, which an inspection has not"
	}
	return text
}

// initialized is what is read of the result of initialize. What is of another type than
// it should be is left out.
type initialized struct {
	ServerInfo struct {
		Name, Title, Version string
	}
	Instructions string
	Capabilities map[string]json.RawMessage
}

func (i *inspection) read(result []byte) {
	var r initialized
	if err := json.Unmarshal(result, &r); err != nil {
		i.find("", "its answer to initialize has parts of another type than the protocol has them")
	}
	i.report.ServerName, i.report.ServerTitle, i.report.ServerVersion = clip(r.ServerInfo.Name, maxText), clip(r.ServerInfo.Title, maxText), clip(r.ServerInfo.Version, maxText)
	i.report.InstructionsBytes = int32(len(r.Instructions))
	i.report.ProtocolVersion = clip(i.visit.Version(), maxText)
	i.report.SessionId = i.visit.HasID()
	i.report.Era = leaseholdv1.InspectedEra_INSPECTED_ERA_STATEFUL
	i.offers = r.Capabilities
	i.report.Capabilities = capabilities(r.Capabilities)
	if r.ServerInfo.Name == "" {
		i.find("", "it does not say what it is called (serverInfo.name)")
	}
	if !mcp.IsStateful(i.visit.Version()) {
		i.find("", fmt.Sprintf("it answered initialize with the protocol version %.32q, which no client that asks for %s knows", i.visit.Version(), mcp.V20251125))
	}
}

// capabilities returns the names of capabilities, and of those parts of them that are
// switched on.
func capabilities(offers map[string]json.RawMessage) []string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(offers)) {
		all = append(all, clip(name, maxText))
		var parts map[string]any
		_ = json.Unmarshal(offers[name], &parts) // what is no object has no parts
		for _, part := range slices.Sorted(maps.Keys(parts)) {
			if parts[part] == true {
				all = append(all, clip(name+"."+part, maxText))
			}
		}
	}
	return all[:min(len(all), maxCapabilities)]
}

// discover asks, without a session, whether the server has versions without sessions.
func (i *inspection) discover(ctx context.Context) {
	i.steps.enter(stepDiscover)
	ctx, cancel := context.WithTimeoutCause(ctx, listTime, errListTime)
	defer cancel()
	result, err := i.visit.Discover(ctx)
	if err != nil {
		i.steps.note(undiscovered(err))
		return
	}
	var r struct{ SupportedVersions []string }
	_ = json.Unmarshal(result, &r) // what is no list of versions has none
	for _, version := range r.SupportedVersions[:min(len(r.SupportedVersions), maxVersions)] {
		i.report.SupportedVersions = append(i.report.SupportedVersions, clip(version, maxText))
	}
	switch stateless := slices.ContainsFunc(r.SupportedVersions, mcp.IsStateless); {
	case stateless && i.report.Era == leaseholdv1.InspectedEra_INSPECTED_ERA_STATEFUL:
		i.report.Era = leaseholdv1.InspectedEra_INSPECTED_ERA_BOTH
	case stateless:
		i.report.Era = leaseholdv1.InspectedEra_INSPECTED_ERA_STATELESS
		i.find("", "it has only versions without sessions: clients that begin one get its refusal")
	}
}

// undiscovered says what it means that a server did not answer which versions it has.
// Only a server that understood the request, or had no place for it, is a stateful one.
func undiscovered(err error) string {
	refused := (*visit.StatusError)(nil)
	if !answered(err) || errors.As(err, &refused) && (refused.Status == http.StatusUnauthorized || refused.Status == http.StatusForbidden || refused.Status >= 500) {
		return "it is not known whether there are versions without sessions: " + reason(err)
	}
	return "no version without sessions: " + reason(err)
}

// end ends the session.
func (i *inspection) end(ctx context.Context) {
	i.steps.enter(stepEnd)
	err := i.visit.End(ctx)
	switch refused := (*visit.StatusError)(nil); {
	case err == nil:
	case errors.As(err, &refused) && (refused.Status == http.StatusMethodNotAllowed || refused.Status == http.StatusNotFound):
		i.steps.note(reason(err) + ": it ends sessions by itself")
	default:
		i.steps.fail(reason(err))
	}
}
