// Package replica holds the state of the partitions that this broker has a replica of: their role, the leader epoch,
// the high watermark, the in-sync replicas, and who waits. It is the one part of the broker that calls the engine.
//
//	raft.Image ──> Set.Apply ──> Partition ── leader | follower | offline
//
//	leader:    produce ──> Append ──> engine.Log ──> device            follower:  Follow ──> Offer
//	              │                       │                                       CutTo    (truncate by epoch)
//	              └─> Replicator ──────>──┼───────────────── batches ──────────>  AppendRun ──> engine.Log ──> device
//	                  (package            │ Progress                                                │ Progress
//	                   replication)       v                                                         v
//	                                  high watermark <── Acknowledged <── acknowledgements ── Replicator.Stored
//	                                      │
//	              ack waiters, fetch waiters, Replicator.Moved
//
//	Set.ISRChanges ──> raft.Propose(AlterPartitionsV2) ──> Set.ISRChanged, and the next image
//
// # Contract
//
// The high watermark is the end of what is acknowledged on every replica of the maximal ISR: the committed one and the
// one that is proposed (KIP-497). Acknowledged is flushed, or written where flush.messages says so (engine.Log.AckEnd). It
// does not move while the committed ISR is smaller than the effective min.insync.replicas (KIP-966). It never moves back
// while a process lives, but for an unclean election that the metadata records. Consumers see nothing at or above it.
//
// A partition acts as leader only in an epoch that this process began: its start is in the log before the role is set.
// A follower takes batches of one stream only, the one that was opened last with an epoch that is not below any that it
// has heard or logged; each run must start where its log ends. It cuts its log by epoch only, never by high watermark,
// and a cut below its own high watermark stops the partition unless an unclean election explains it.
//
// A follower's acknowledgement counts for the stint that its handshake opened, and no longer than the leader's epoch and
// its own registration. One that offers less than it once acknowledged leaves the ISR before it is sent anything.
//
// # Threads
//
// All methods are safe for concurrent use. Progress runs on the driver thread of the log's shard, Acknowledged on the
// stream's; both call the waiters: a waiter must not block and must not call back into the partition's waiting methods.
// Apply, Follow, CutTo and Housekeep block on the device.
//
// Nothing here has a clock or a goroutine: the time comes from Options.Now, and others call ISRChanges and Expire.
//
// Lock order: Set.applying, Partition.surgery, Set.mu, Partition.mu, then the engine's. Nothing of the engine that blocks
// is called under Partition.mu.
package replica
