package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/leasehold/leasehold/cmd/internal/manifest"
	"github.com/leasehold/leasehold/cmd/internal/operator"
	"github.com/leasehold/leasehold/cmd/internal/table"
	leaseholdv1 "github.com/leasehold/leasehold/gen/leasehold/v1"
)

// errSlow is why a watch ended that did not show anything in time.
var errSlow = errors.New("no answer in time (--timeout)")

// follow prints the resource of that name, or all when it is empty, and then
// each change until ctx ends.
func (r *resource[M, L]) follow(ctx context.Context, g *get, name string, stdout, stderr io.Writer) error {
	if name != "" { // a name that there is not is an error, and not a long wait
		once, conn, closeAll, err := g.connect(ctx)
		if err != nil {
			return err
		}
		_, err = r.one(once, conn, name)
		closeAll()
		if err != nil {
			return fmt.Errorf("%s: %w", name, operator.Explain(err))
		}
	}
	if err := g.check(); err != nil {
		return err
	}
	outer, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	patience := time.AfterFunc(g.timeout, func() { cancel(errSlow) })
	defer patience.Stop()
	out := &changes[M, L]{resource: r, stdout: stdout, output: g.output.String(), table: table.New(stdout, "", r.columns)}
	watch := &operator.Watch[M]{
		Control: g.control,
		Secure:  g.credentials,
		Open:    r.open,
		Note:    func(text string) { fmt.Fprintln(stderr, "note:", text) },
		Tell: func(change operator.Change[M]) error {
			bookmark := change.Type == leaseholdv1.ChangeType_CHANGE_TYPE_BOOKMARK
			if bookmark {
				patience.Stop()
			}
			if name != "" && !bookmark && change.Resource.GetName() != name {
				return nil
			}
			return out.tell(change)
		},
	}
	err := watch.Run(outer)
	if ctx.Err() != nil {
		return nil // it was stopped
	}
	return err
}

// changes prints changes as they come.
type changes[M operator.Resource, L proto.Message] struct {
	resource *resource[M, L]
	stdout   io.Writer
	output   string
	table    *table.Table
	first    []M  // what there is, until all of it is known
	begun    bool // all of it is known
	printed  bool // something was printed
}

func (c *changes[M, L]) tell(change operator.Change[M]) error {
	switch c.output {
	case "json":
		return manifest.WriteJSONLine(c.stdout, c.resource.event(change))
	case "yaml":
		if c.printed {
			if _, err := io.WriteString(c.stdout, "---\n"); err != nil {
				return err
			}
		}
		c.printed = true
		return manifest.WriteYAML(c.stdout, c.resource.event(change))
	case "name":
		return c.tellName(change)
	}
	return c.tellRow(change)
}

func (c *changes[M, L]) tellName(change operator.Change[M]) error {
	text := change.Resource.GetName()
	switch change.Type {
	case leaseholdv1.ChangeType_CHANGE_TYPE_BOOKMARK:
		return nil
	case leaseholdv1.ChangeType_CHANGE_TYPE_REMOVED:
		text += " removed"
	}
	_, err := fmt.Fprintln(c.stdout, text)
	return err
}

// tellRow prints the table once all of it is known, and then row by row.
func (c *changes[M, L]) tellRow(change operator.Change[M]) error {
	switch {
	case change.Type == leaseholdv1.ChangeType_CHANGE_TYPE_BOOKMARK:
		first := c.first
		c.first, c.begun = nil, true
		return c.resource.append(c.stdout, c.table, first)
	case !c.begun:
		c.first = append(c.first, change.Resource)
		return nil
	case change.Type == leaseholdv1.ChangeType_CHANGE_TYPE_REMOVED:
		return c.table.Append([][]string{c.resource.gone(change.Resource)})
	}
	return c.resource.append(c.stdout, c.table, []M{change.Resource})
}
