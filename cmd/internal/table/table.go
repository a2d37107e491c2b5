// Package table prints rows for people: aligned columns, never wider than a
// terminal.
package table

import (
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Width is what no line is wider than.
const Width = 80

const gap = 2

// Column is one column of a table.
type Column struct {
	// Title is the column's first line.
	Title string
	// Least is how narrow the column may become; 0 means that it keeps its width.
	Least int
}

// Write prints rows under the columns' titles. Where they are too wide together,
// columns that may become narrower do, the last one first; what is left out is
// shown by an ellipsis. Control characters, which could rewrite a terminal, are
// shown as question marks.
func Write(w io.Writer, columns []Column, rows [][]string) error {
	clean := make([][]string, len(rows))
	widths := make([]int, len(columns))
	for i, column := range columns {
		widths[i] = len(column.Title)
	}
	for i, row := range rows {
		clean[i] = make([]string, len(row))
		for j, cell := range row {
			clean[i][j] = printable(cell)
			widths[j] = max(widths[j], utf8.RuneCountInString(clean[i][j]))
		}
	}
	fit(columns, widths)
	titles := make([]string, len(columns))
	for i, column := range columns {
		titles[i] = column.Title
	}
	var out strings.Builder
	line(&out, titles, widths)
	for _, row := range clean {
		line(&out, row, widths)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// fit narrows widths until they are at most Width together.
func fit(columns []Column, widths []int) {
	total := gap * (len(widths) - 1)
	for _, width := range widths {
		total += width
	}
	for i := len(columns) - 1; i >= 0 && total > Width; i-- {
		if columns[i].Least == 0 || columns[i].Least >= widths[i] {
			continue
		}
		cut := min(total-Width, widths[i]-columns[i].Least)
		widths[i] -= cut
		total -= cut
	}
}

func line(out *strings.Builder, cells []string, widths []int) {
	var text strings.Builder
	for i, cell := range cells {
		runes := []rune(cell)
		if len(runes) > widths[i] {
			runes = append(runes[:widths[i]-1], '…')
		}
		text.WriteString(string(runes))
		text.WriteString(strings.Repeat(" ", widths[i]-len(runes)+gap))
	}
	out.WriteString(strings.TrimRight(text.String(), " "))
	out.WriteByte('\n')
}

func printable(cell string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, cell)
}
