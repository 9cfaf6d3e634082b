// Package index holds the small in-memory indexes of a log: where a batch is
// (Offsets), from which offset a time can be found (Times), and which
// transactions were aborted (Aborted).
//
//	segment  |batch|batch|batch|batch|batch|batch|batch| ...
//	          ^           ^                 ^
//	Offsets   12 -> 0     31 -> 4120        58 -> 8301      one entry each few KiB
//	Times     17:00:01 -> 30    17:00:04 -> 57              strictly growing times
//
// # Contract
//
// Offsets and Times are sparse: a lookup gives the place from which to walk
// forward over batch headers. An entry costs 8 bytes (Offsets) or 12 (Times), an
// empty index nothing but its struct; Thin halves an index that has grown past
// what its owner allows, at the price of a longer walk.
//
// Each index encodes itself into a checkpoint section (AppendTo) and decodes
// exactly such a section (Decode...): delta coded, bounded by the section's size,
// an error that wraps ErrCorrupt for anything else.
//
// # Threads
//
// Nothing here locks. The owner of the log or segment does.
package index
