// Package simdisk is a disk that lives in memory and forgets, tears, fails and
// reorders as real ones do, from a seed.
//
//	     the engine (real code)
//	       |              |
//	disk.FS, disk.File   disk.Queue          what it sees
//	       |              | Submit: in flight
//	       v              v Reap: delivered in a random order
//	current view  <-------+                  what reads return (page cache, device cache)
//	       | Fdatasync, Queue.Fsync, dsync writes: blocks and size
//	       | SyncDir: names
//	       v
//	durable state                            what a power cut leaves for sure
//
// # Model
//
//   - A file's content is kept in 4 KiB blocks. A write adds an unsynced version to
//     each block it covers; a flush makes the newest version that was complete
//     when the flush was submitted durable, and the file's size with it.
//   - Crash is a power cut: each unsynced block keeps one of its versions or falls
//     back to its durable content, which for recycled files is old and valid; a
//     block may be torn at 512 bytes; each folder keeps a prefix or a subset of the
//     names changed since its last SyncDir.
//   - Kill is the death of the process: nothing that completed is lost, nothing
//     becomes durable, and what was in flight lands wholly, partly or not at all.
//   - A flush that fails leaves its blocks readable but clean, as Linux does: they never
//     become durable unless they are written again, even if the next flush succeeds.
//   - Direct files refuse misaligned memory, offset or length. A buffer that
//     changes while it is in flight is a panic.
//
// # Threads
//
// Everything is safe for concurrent use, under one mutex. Runs repeat exactly when
// the calls come in the same order; EffectHash tells whether they did.
package simdisk
