package main

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/leasehold/leasehold/cmd/internal/table"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// applyWord is the word for what a worker made of a definition.
func applyWord(state leaseholdv1.ApplyState) string { return short(state.String(), "APPLY_STATE_") }

// applied reports whether every living worker has applied a definition. A control
// plane of before it said so of each worker only counts them.
func applied(status *leaseholdv1.GatewayStatus) bool {
	for _, worker := range status.GetWorkers() {
		if worker.GetState() != leaseholdv1.ApplyState_APPLY_STATE_APPLIED {
			return false
		}
	}
	return len(status.GetWorkers()) > 0 || status.GetWorkersApplied() >= status.GetWorkersTotal()
}

// refuses reports whether a worker does not serve by a definition and will not.
func refuses(worker *leaseholdv1.GatewayWorker) bool {
	switch worker.GetState() {
	case leaseholdv1.ApplyState_APPLY_STATE_REJECTED, leaseholdv1.ApplyState_APPLY_STATE_QUARANTINED:
		return true
	}
	return false
}

// reason says why a worker rejects a definition.
func reason(worker *leaseholdv1.GatewayWorker) string {
	text := cmp.Or(worker.GetError().GetReason(), "it does not say why")
	if field := worker.GetError().GetField(); field != "" {
		text = field + ": " + text
	}
	return table.Printable(text)
}

// progress says what a worker made of a definition.
func progress(worker *leaseholdv1.GatewayWorker) string {
	text := applyWord(worker.GetState())
	if refuses(worker) {
		text += ": " + reason(worker)
	}
	return text
}

// rejections says by whom a definition is rejected and why, once for each reason.
func rejections(status *leaseholdv1.GatewayStatus) []string {
	type cause struct{ word, why string }
	var order []cause
	by := map[cause][]string{}
	for _, worker := range status.GetWorkers() {
		if !refuses(worker) {
			continue
		}
		c := cause{applyWord(worker.GetState()), reason(worker)}
		if by[c] == nil {
			order = append(order, c)
		}
		by[c] = append(by[c], worker.GetWorker())
	}
	texts := make([]string, len(order))
	for i, c := range order {
		texts[i] = fmt.Sprintf("%s by %s: %s", c.word, some(by[c]), c.why)
	}
	return texts
}

// rejected is the error of a definition that workers reject.
func rejected(status *leaseholdv1.GatewayStatus) error {
	if texts := rejections(status); len(texts) > 0 {
		return errors.New(strings.Join(texts, "\n"))
	}
	return nil
}

// missing says which workers have not applied a definition that none rejects. Nil is
// a status that is not known.
func missing(status *leaseholdv1.GatewayStatus) string {
	var names []string
	for _, worker := range status.GetWorkers() {
		if worker.GetState() != leaseholdv1.ApplyState_APPLY_STATE_APPLIED {
			names = append(names, worker.GetWorker())
		}
	}
	switch {
	case status == nil:
		return "how far it is is not known"
	case len(names) > 0:
		return "nothing yet from " + some(names)
	}
	return fmt.Sprintf("%d of %d workers have", status.GetWorkersApplied(), status.GetWorkersTotal())
}

// some lists the first few of names and says how many more there are.
func some(names []string) string {
	if len(names) > mostNamed {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:mostNamed], ", "), len(names)-mostNamed)
	}
	return strings.Join(names, ", ")
}
