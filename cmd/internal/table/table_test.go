package table

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestNoLineIsWiderThanATerminal(t *testing.T) {
	long := strings.Repeat("å", 200)
	columns := []Column{{Title: "NAME", Least: 20}, {Title: "N"}, {Title: "URL", Least: 10}}
	for _, row := range [][]string{{"a", "1", "b"}, {long, "123", "b"}, {"a", "1", long}, {long, "1", long}} {
		var out strings.Builder
		if err := Write(&out, columns, [][]string{row}); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out.String()) {
			if got := utf8.RuneCountInString(strings.TrimRight(line, "\n")); got > Width {
				t.Errorf("line of %d characters, want at most %d: %s", got, Width, line)
			}
		}
	}
}

func TestColumnsAreAlignedAndCellsCannotRewriteTheTerminal(t *testing.T) {
	var out strings.Builder
	err := Write(&out, []Column{{Title: "A"}, {Title: "LONG"}}, [][]string{{"x\x1b[2J", "1"}, {"yy", "2\n3"}})
	if err != nil {
		t.Fatal(err)
	}
	want := "A      LONG\nx?[2J  1\nyy     2?3\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestRowsThatComeLaterGoOnUnderTheSameTitles(t *testing.T) {
	var out strings.Builder
	table := New(&out, "  ", []Column{{Title: "A", Least: 3}, {Title: "B"}})
	for _, row := range [][]string{{"x", "1"}, {"longer", "2"}, {strings.Repeat("y", 100), "3"}} {
		if err := table.Append([][]string{row}); err != nil {
			t.Fatal(err)
		}
	}
	want := "  A  B\n  x  1\n  longer  2\n  " + strings.Repeat("y", 74) + "…  3\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestALineIsCutWhereNoColumnMayBecomeNarrower(t *testing.T) {
	var out strings.Builder
	if err := Write(&out, []Column{{Title: "A"}, {Title: "B"}}, [][]string{{strings.Repeat("x", 60), strings.Repeat("y", 60)}}); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		if got := utf8.RuneCountInString(strings.TrimRight(line, "\n")); got > Width {
			t.Errorf("line of %d characters, want at most %d: %s", got, Width, line)
		}
	}
}

func TestTextIsWrappedBetweenWords(t *testing.T) {
	long := strings.Repeat("x", 100)
	for text, want := range map[string]string{
		"":                                "",
		"a  b\nc":                         "  a b c\n",
		strings.Repeat("å", 75) + " bb c": "  " + strings.Repeat("å", 75) + " bb\n  c\n",
		strings.Repeat("å", 75) + " bbb":  "  " + strings.Repeat("å", 75) + "\n  bbb\n",
		"a " + long + " b":                "  a\n  " + long + "\n  b\n",
	} {
		if got := Wrap("  ", text); got != want {
			t.Errorf("%q: got\n%s\nwant\n%s", text, got, want)
		}
	}
}
