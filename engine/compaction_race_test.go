//go:build race

package engine

// compactionSeeds is small where every access is watched.
const compactionSeeds = 6
