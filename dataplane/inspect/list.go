package inspect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/leasehold/leasehold/dataplane/mcp"
	"github.com/leasehold/leasehold/dataplane/visit"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// Bounds of the lists.
const (
	// listTime bounds a list, with all of its pages.
	listTime = 10 * time.Second
	maxPages = 50
	maxItems = 500
	// maxListed bounds the texts of all lists together.
	maxListed = 1 << 20
	// maxDescription and maxURI bound what is kept of these.
	maxDescription = 512
	maxURI         = 1024
)

var errListTime = fmt.Errorf("no answer within %v", listTime)

// kind is one kind of things that servers list.
type kind struct {
	step                      leaseholdv1.InspectionStepKind
	capability, method, items string
	optional                  bool                    // a server may have the capability and not this list
	judge                     func(*inspection, item) // what is special to it; may be nil
	put                       func(*leaseholdv1.UpstreamInspection, *leaseholdv1.InspectedList)
}

var kinds = []kind{
	{
		step: leaseholdv1.InspectionStepKind_INSPECTION_STEP_KIND_LIST_TOOLS, capability: "tools", method: mcp.MethodToolsList, items: "tools",
		judge: (*inspection).judgeTool,
		put:   func(r *leaseholdv1.UpstreamInspection, l *leaseholdv1.InspectedList) { r.Tools = l },
	},
	{
		step: leaseholdv1.InspectionStepKind_INSPECTION_STEP_KIND_LIST_RESOURCES, capability: "resources", method: mcp.MethodResourcesList, items: "resources",
		judge: (*inspection).judgeResource,
		put:   func(r *leaseholdv1.UpstreamInspection, l *leaseholdv1.InspectedList) { r.Resources = l },
	},
	{
		step: leaseholdv1.InspectionStepKind_INSPECTION_STEP_KIND_LIST_RESOURCE_TEMPLATES, capability: "resources", method: mcp.MethodResourcesTemplates, items: "resourceTemplates",
		optional: true, judge: (*inspection).judgeTemplate,
		put: func(r *leaseholdv1.UpstreamInspection, l *leaseholdv1.InspectedList) { r.ResourceTemplates = l },
	},
	{
		step: leaseholdv1.InspectionStepKind_INSPECTION_STEP_KIND_LIST_PROMPTS, capability: "prompts", method: mcp.MethodPromptsList, items: "prompts",
		put: func(r *leaseholdv1.UpstreamInspection, l *leaseholdv1.InspectedList) { r.Prompts = l },
	},
}

// list lists everything that the server says it has.
func (i *inspection) list(ctx context.Context) {
	for _, k := range kinds {
		if _, ok := i.offers[k.capability]; ok {
			i.listKind(ctx, k)
		}
	}
	i.judgeRepeatable()
}

func (i *inspection) listKind(ctx context.Context, k kind) {
	i.steps.enter(k.step)
	ctx, cancel := context.WithTimeoutCause(ctx, listTime, errListTime)
	defer cancel()
	l := &lister{inspection: i, kind: k, list: &leaseholdv1.InspectedList{}, seen: make(map[string]bool)}
	err := l.run(ctx)
	failed := (*visit.AnswerError)(nil)
	switch {
	case err == nil:
		k.put(i.report, l.list)
	case k.optional && errors.As(err, &failed) && failed.Code == mcp.CodeMethodNotFound:
		i.steps.note("the server does not have this list")
	default:
		i.steps.fail(reason(err))
		i.find(k.items, fmt.Sprintf("it says that it has %s, but does not list these: %s", k.capability, reason(err)))
	}
}

// lister reads one list.
type lister struct {
	*inspection
	kind kind
	list *leaseholdv1.InspectedList
	seen map[string]bool // names, or URIs of what has these
}

// run reads pages up to the last, or a bound.
func (l *lister) run(ctx context.Context) error {
	params, cursors := "", make(map[string]bool)
	for range maxPages {
		result, err := l.visit.Ask(ctx, l.kind.method, params)
		if err != nil {
			return err
		}
		var page map[string]json.RawMessage
		if err := json.Unmarshal(result, &page); err != nil {
			return errors.New("the result is not an object")
		}
		var items []json.RawMessage
		if err := json.Unmarshal(page[l.kind.items], &items); err != nil {
			return fmt.Errorf("%s of the result is not an array", l.kind.items)
		}
		for _, raw := range items {
			if l.add(raw); l.list.Cut != "" {
				return nil
			}
		}
		cursor, more := page["nextCursor"]
		if !more || string(cursor) == "null" {
			return nil
		}
		if cursors[string(cursor)] {
			return errors.New("a cursor leads to itself: the list has no end")
		}
		cursors[string(cursor)] = true
		params = `{"cursor":` + string(cursor) + `}`
	}
	l.list.Cut = fmt.Sprintf("%d pages were read", maxPages)
	return nil
}

// add takes an item down.
func (l *lister) add(raw json.RawMessage) {
	it := item{raw: raw, number: len(l.list.Items), kind: l.kind.items}
	it.err = json.Unmarshal(raw, &it.fields)
	it.again = l.seen[it.key()] && it.key() != ""
	l.seen[it.key()] = true
	shown := &leaseholdv1.InspectedItem{
		Name: clip(it.text("name"), maxText), Title: clip(it.text("title"), maxText), Description: clip(it.text("description"), maxDescription), Uri: clip(it.uri(), maxURI),
	}
	size := len(shown.Name) + len(shown.Title) + len(shown.Description) + len(shown.Uri)
	switch {
	case len(l.list.Items) == maxItems:
		l.list.Cut = fmt.Sprintf("%d are shown", maxItems)
		return
	case l.room < size:
		l.list.Cut = fmt.Sprintf("the texts of all lists have more than %d bytes", maxListed)
		return
	}
	l.room -= size
	l.list.Items = append(l.list.Items, shown)
	l.judge(it)
	if l.kind.judge != nil {
		l.kind.judge(l.inspection, it)
	}
}
