package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
)

// report prints the result, writes it to the file, and says whether it is good.
func (b *bench) report(ran []section) error {
	r := b.result
	var err error
	if b.check {
		if r.Goals, err = r.evaluate(ran); err != nil {
			return err
		}
	}
	r.print(os.Stdout, ran)
	if b.jsonFile != "" {
		data, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(b.jsonFile, append(data, '\n'), 0o644); err != nil {
			return fmt.Errorf("write result: %w", err)
		}
	}
	if err := r.checkCounters(os.Stdout, ran); err != nil {
		return err
	}
	return r.checkGoals(os.Stdout)
}

// print prints a table for each section.
func (r *result) print(out io.Writer, ran []section) {
	e := r.Environment
	fmt.Fprintf(out, "\n%s, %d CPUs (%s), %s, commit %s, %s\n%s\n", e.Date, e.CPUs, e.Processor, e.Go, e.Commit, e.Kernel, e.Command)
	for _, s := range ran {
		rows := r.of(s.name)
		if len(rows) == 0 {
			continue
		}
		fmt.Fprintf(out, "\n%s: %s\nmedians of %d; load average %.1f before, %.1f after\n\n",
			s.name, s.title, len(rows[0].Rounds), r.Load[s.name][0], r.Load[s.name][1])
		printRows(out, s, rows)
	}
	if e.Note != "" {
		fmt.Fprintln(out, "\n"+e.Note)
	}
}

// printRows prints the rows of a section.
func printRows(out io.Writer, s section, rows []*row) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	head := "clients\tpath\t"
	switch s.name {
	case sectionIdle:
		head = "sessions\tpath\t"
	case sectionMixed:
		head = "long calls\tpath\t"
	case sectionConfig:
		head = "gateways\tpath\t"
	case sectionRolling:
		head = "replaced\tpath\t"
	}
	for _, c := range s.columns {
		head += c.head + "\t"
	}
	if s.ratios {
		head += "× proxy\t× owner\t"
	}
	fmt.Fprintln(table, head)
	for i, row := range rows {
		if i > 0 && row.Clients != rows[i-1].Clients {
			fmt.Fprintln(table, strings.Repeat("\t", strings.Count(head, "\t")))
		}
		fmt.Fprintf(table, "%d\t%s\t", row.Clients, row.Path)
		for _, c := range s.columns {
			if c.figure == figureCPU && row.Path == pathDirect {
				fmt.Fprint(table, "-\t")
				continue
			}
			fmt.Fprintf(table, c.format+"\t", row.Median[c.figure])
		}
		if s.ratios {
			fmt.Fprintf(table, "%s\t%s\t", orDash(row.ToProxy), orDash(row.ToOwner))
		}
		fmt.Fprintln(table)
	}
	table.Flush()
}

// orDash prints a ratio that may not be there.
func orDash(ratio float64) string {
	if ratio == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", ratio)
}
