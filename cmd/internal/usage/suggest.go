package usage

import "strings"

// Nearest returns the word that got was most likely meant to be, and whether
// one is near enough to be worth saying.
func Nearest(got string, words []string) (string, bool) {
	got = strings.ToLower(got)
	best, bestDistance := "", len(got)/2+1
	for _, word := range words {
		lower := strings.ToLower(word)
		d := distance(got, lower)
		if len(got) >= 2 && strings.HasPrefix(lower, got) {
			d = 1
		}
		if d < bestDistance && d <= 3 {
			best, bestDistance = word, d
		}
	}
	return best, best != ""
}

// DidYouMean returns `; did you mean "word"?` for the word nearest to got, or
// nothing when none is near.
func DidYouMean(got string, words []string) string {
	word, ok := Nearest(got, words)
	if !ok {
		return ""
	}
	return `; did you mean "` + word + `"?`
}

// distance is the number of letters to insert, delete, replace or swap with
// their neighbour to turn a into b.
func distance(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
