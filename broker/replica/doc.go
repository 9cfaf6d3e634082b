// Package replica holds the state of the partitions that this broker has a
// replica of: their role, the leader epoch they lead in, the high watermark,
// and who waits for it. It is the one part of the broker that calls the engine.
//
//	raft.Image ──> Set.Apply ──> Partition (leader | offline)
//	produce ─────> Partition.Append ──> engine.Log ──> device
//	                                               │
//	ack waiters, fetch waiters <── Partition.Progress (commit done)
//
// # Contract
//
// The high watermark is the end of what is acknowledged on every replica in
// the committed ISR. With one replica that is the log's own AckEnd. It never
// moves back while a process lives, and consumers see nothing at or above it.
//
// A partition acts as leader only in an epoch that this process began: Apply
// writes the epoch's start into the log before the role is set.
//
// # Threads
//
// All methods are safe for concurrent use. Progress runs on the driver thread
// of the log's shard and calls the waiters there: a waiter must not block and
// must not call back into the partition's waiting methods.
//
// Lock order: Set.mu, then Partition.mu. Nothing of the engine that blocks is
// called under Partition.mu.
package replica
