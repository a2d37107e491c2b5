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
	// Room is how wide the column is where there is room, for rows that come later.
	Room int
}

// Table is a table that is printed bit by bit. It is for one goroutine.
type Table struct {
	w       io.Writer
	indent  string
	columns []Column
	natural []int // the widest cell of each column so far
	begun   bool
}

// New returns a table that is printed to w, each line after indent.
func New(w io.Writer, indent string, columns []Column) *Table {
	t := &Table{w: w, indent: indent, columns: columns, natural: make([]int, len(columns))}
	for i, column := range columns {
		t.natural[i] = max(len(column.Title), column.Room)
	}
	return t
}

// Write prints rows under the columns' titles.
func Write(w io.Writer, columns []Column, rows [][]string) error {
	return New(w, "", columns).Append(rows)
}

// Append prints more rows; the first time under the columns' titles. Where they
// are too wide together, columns that may become narrower do, the last one
// first; what is left out is shown by an ellipsis. A column that was too narrow
// for a later row is wider from then on. Control characters, which could rewrite
// a terminal, are shown as question marks.
func (t *Table) Append(rows [][]string) error {
	clean := make([][]string, len(rows))
	for i, row := range rows {
		clean[i] = make([]string, len(row))
		for j, cell := range row {
			clean[i][j] = Printable(cell)
			t.natural[j] = max(t.natural[j], utf8.RuneCountInString(clean[i][j]))
		}
	}
	widths := t.fit()
	var out strings.Builder
	if !t.begun {
		titles := make([]string, len(t.columns))
		for i, column := range t.columns {
			titles[i] = column.Title
		}
		t.line(&out, titles, widths)
		t.begun = true
	}
	for _, row := range clean {
		t.line(&out, row, widths)
	}
	_, err := io.WriteString(t.w, out.String())
	return err
}

// fit returns widths that are at most Width together.
func (t *Table) fit() []int {
	widths := append([]int(nil), t.natural...)
	total := len(t.indent) + gap*(len(widths)-1)
	for _, width := range widths {
		total += width
	}
	for i := len(t.columns) - 1; i >= 0 && total > Width; i-- {
		least := t.columns[i].Least
		if least == 0 || least >= widths[i] {
			continue
		}
		cut := min(total-Width, widths[i]-least)
		widths[i] -= cut
		total -= cut
	}
	return widths
}

func (t *Table) line(out *strings.Builder, cells []string, widths []int) {
	text := t.indent
	for i, cell := range cells {
		cell = clip(cell, widths[i])
		text += cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+gap)
	}
	out.WriteString(clip(strings.TrimRight(text, " "), Width))
	out.WriteByte('\n')
}

// clip shortens a text to width characters.
func clip(text string, width int) string {
	runes := []rune(text)
	if len(runes) <= width {
		return text
	}
	return string(runes[:width-1]) + "…"
}

// Wrap returns text in lines that are no wider than a terminal, each after indent.
// A word that is wider has a line of its own.
func Wrap(indent, text string) string {
	var out strings.Builder
	width := 0 // of the line so far; 0 before its first word
	for word := range strings.FieldsSeq(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case width == 0:
			out.WriteString(indent)
			width = utf8.RuneCountInString(indent)
		case width+1+n > Width:
			out.WriteString("\n" + indent)
			width = utf8.RuneCountInString(indent)
		default:
			out.WriteByte(' ')
			width++
		}
		out.WriteString(word)
		width += n
	}
	if width > 0 {
		out.WriteByte('\n')
	}
	return out.String()
}

// Printable returns text with a question mark for each control character.
func Printable(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}
