// Package disk is the engine's only door to storage: files, folders, aligned
// memory, and the submission queue that carries the write-ahead log to the
// device.
//
//	engine, raft/logdb
//	   |            \
//	  FS, File       Queue                  what callers see
//	   |              |        \
//	  OS()         uring      pwrite        real machine: io_uring, or worker threads
//	   |              |        |
//	   +-- simdisk ---+--------+            in tests: one seeded disk that forgets,
//	                                        tears, fails and reorders
//
// # Contract
//
//   - A write is on the device only after a flush that was submitted after the
//     write had completed (Fdatasync, Queue.Fsync), or when it was queued with
//     dsync and its completion carried no error.
//   - A name (created, renamed, removed) is on the device only after SyncDir of
//     its folder.
//   - A failed or short write and a failed flush leave the bytes undefined. They
//     are reported once and never retried here; the caller must not trust the
//     file again.
//   - Direct files take memory, offset and length in multiples of Alignment.
//
// # Threads
//
// FS and File may be used from any goroutine; their calls block. A Queue belongs
// to one OS thread: its owner locks itself to the thread (runtime.LockOSThread),
// and the first Submit binds the queue to it. Submit and Reap never block.
package disk
