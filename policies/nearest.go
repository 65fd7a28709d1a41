package policies

import (
	"fmt"
	"strings"
)

// didYouMean is ` (did you mean "x"?)` for the candidate nearest to name, and
// empty if none is near enough to be meant.
func didYouMean(name string, candidates []string) string {
	if near := nearest(name, candidates); near != "" {
		return fmt.Sprintf(" (did you mean %q?)", near)
	}
	return ""
}

// nearest is the first candidate with the fewest edits from name, empty if it
// takes more than one edit in three letters. Case and "-" for "_" are no edit.
func nearest(name string, candidates []string) string {
	if len(name) > 64 {
		return "" // the comparison is quadratic and the file is a stranger's
	}
	name = fold(name)
	best, fewest := "", max(1, len(name)/3)+1
	for _, c := range candidates {
		if d := edits(name, fold(c)); d < fewest {
			best, fewest = c, d
		}
	}
	return best
}

func fold(s string) string { return strings.ReplaceAll(strings.ToLower(s), "-", "_") }

// edits counts the insertions, deletions, replacements and swaps of neighbours
// that turn a into b.
func edits(a, b string) int {
	before, row := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next := make([]int, len(b)+1)
		next[0] = i
		for j := 1; j <= len(b); j++ {
			replace := row[j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			next[j] = min(replace, row[j]+1, next[j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}
