package config

import "strings"

// Nearest returns the candidate that looks most like name, or "" when none is
// close enough to be worth a guess.
func Nearest(name string, candidates []string) string {
	const longest = 100 // no setting is longer; bounds the work
	if name == "" || len(name) > longest {
		return ""
	}
	best, cost := "", len(name)/3+1
	for _, c := range candidates {
		d := distance(strings.ToLower(name), c)
		if d < cost {
			best, cost = c, d
		}
	}
	return best
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours that turn a into b (restricted Damerau-Levenshtein).
func distance(a, b string) int {
	width := len(b) + 1
	before, prev, row := make([]int, width), make([]int, width), make([]int, width)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			change := 1
			if a[i-1] == b[j-1] {
				change = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+change)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, prev, row = prev, row, before
	}
	return prev[len(b)]
}
