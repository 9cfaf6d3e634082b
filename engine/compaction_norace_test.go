//go:build !race

package engine

// compactionSeeds is how many seeds the compaction test runs.
const compactionSeeds = 80
