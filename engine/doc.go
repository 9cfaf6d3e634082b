// Package engine keeps the partition logs of one data directory: durable appends,
// reads, recovery.
package engine
