package syscalls

import "strings"

// Nearest is the call or group that a misspelt name most likely meant, empty
// if none is near: at most one edit in three letters. Case, and "-" for "_",
// are no edit; among equals the one with the same first letter wins, so that
// "unmount" is umount2 and not mount.
func Nearest(name string) string {
	const longest = 32 // no call or group has more letters; the comparison is quadratic
	if name == "" || len(name) > longest {
		return ""
	}
	candidates := Names()
	if name[0] == '@' {
		candidates = Groups()
	}
	wanted := fold(name)
	best, fewest := "", max(1, len(name)/3)+1
	for _, c := range candidates {
		d := distance(wanted, fold(c))
		if d < fewest || d == fewest && best != "" && c[0] == wanted[0] && best[0] != wanted[0] {
			best, fewest = c, d
		}
	}
	return best
}

func fold(s string) string { return strings.ReplaceAll(strings.ToLower(s), "-", "_") }

// distance is the Levenshtein distance: the fewest insertions, deletions and
// replacements of one byte that make b of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
