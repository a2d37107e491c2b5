package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
)

// change is how a figure differs between two runs.
type change struct {
	old, new float64
	mark     string
}

// The marks of changes.
const (
	markBetter = "better"
	markWorse  = "WORSE"
)

// singleSpread is how much a figure that was measured once may differ before
// that counts.
const singleSpread = 0.1

// compareFiles prints how the figures of two files differ.
func compareFiles(out io.Writer, files []string) error {
	if len(files) != 2 {
		return errors.New("compare takes two files: the old one and the new one")
	}
	var runs [2]result
	for i, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(data, &runs[i]); err != nil {
			return fmt.Errorf("read %s: %w", file, err)
		}
		e := runs[i].Environment
		fmt.Fprintf(out, "%s: %s, commit %s, %d CPUs (%s), %s\n", file, e.Date, e.Commit, e.CPUs, e.Processor, e.Go)
	}
	old, new := &runs[0], &runs[1]
	if old.Seconds != new.Seconds || old.OpenLoopRate != new.OpenLoopRate {
		fmt.Fprintf(out, "\nThe runs differ: measurements took %.1f and %.1f s; the open loop made %.0f and %.0f calls/s.\n",
			old.Seconds, new.Seconds, old.OpenLoopRate, new.OpenLoopRate)
	}
	if printChanges(out, old, new) == 0 {
		return errors.New("the files have no figure in common")
	}
	return nil
}

// printChanges prints the changes of all figures that both runs have, and
// returns how many there are.
func printChanges(out io.Writer, old, new *result) int {
	fmt.Fprint(out, "\nMarked is what lies beyond the spread of the rounds of both runs.\n\n")
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "section\tclients\tpath\tfigure\told\tnew\tratio\t")
	printed := 0
	for _, s := range sections {
		for _, after := range new.of(s.name) {
			before := old.find(s.name, after.Path, after.Clients)
			if before == nil {
				continue
			}
			for _, c := range s.columns {
				if c.figure == figureCPU && after.Path == pathDirect {
					continue
				}
				d, ok := compare(before, after, c)
				if !ok {
					continue
				}
				fmt.Fprintf(table, "%s\t%d\t%s\t%s\t"+c.format+"\t"+c.format+"\t%s\t%s\n",
					s.name, after.Clients, after.Path, c.head, d.old, d.new, orDash(d.ratio()), d.mark)
				printed++
			}
		}
	}
	table.Flush()
	return printed
}

// ratio is the new figure as a multiple of the old one, 0 if that has none.
func (d change) ratio() float64 {
	if d.old == 0 {
		return 0
	}
	return d.new / d.old
}

// compare compares a figure of two rows, if both have it.
func compare(old, new *row, c column) (change, bool) {
	before, hadIt := old.Median[c.figure]
	after, hasIt := new.Median[c.figure]
	d := change{old: before, new: after}
	if !hadIt || !hasIt {
		return d, false
	}
	oldLow, oldHigh := spread(old.figures(c.figure))
	newLow, newHigh := spread(new.figures(c.figure))
	switch {
	case newLow > oldHigh:
		d.mark = markWorse
		if c.more {
			d.mark = markBetter
		}
	case newHigh < oldLow:
		d.mark = markBetter
		if c.more {
			d.mark = markWorse
		}
	}
	return d, true
}

// spread is the least and the greatest of some values. A single value has none
// of its own and gets one.
func spread(all []float64) (low, high float64) {
	if len(all) == 1 {
		by := max(all[0], -all[0]) * singleSpread / 2
		return all[0] - by, all[0] + by
	}
	return slices.Min(all), slices.Max(all)
}
