// Package engine keeps the partition logs of one data directory: it makes appends durable, serves reads,
// and brings everything back after a crash. It knows nothing of the network, of clusters, or of who
// may read what: package broker does.
//
//	  Append                                  Read
//	    | sequence check, offset, copy          ^        ^
//	    v                                       |memory  |file ranges
//	+--------------------- tail ring ----------------+   |
//	|  slab | slab | slab |  open commit  |          |   |          one ring, one WAL and one
//	+---+-----------------------+--------------------+   |          submission queue a Shard
//	    | mover: durable        | driver: one write,     |
//	    | batches, by log       | one flush, for all     |
//	    v                       v logs of the shard      |
//	segments, tail blocks      WAL files                 |
//	    |        \              ^                        |
//	    |         +-------------|------------------------+
//	    v round                 | recycled
//	checkpoint -----------------+
//
// # Contract
//
// Append copies one validated batch into the open commit, gives it offsets, and returns at once; it
// never waits for the device. The batch is acknowledged, and may be told to its producer, when
// AckEnd has passed its last offset:
//
//   - flush.messages = 1 (the default): AckEnd is DurableEnd. The commit that holds the batch, and all
//     before it, have been written and flushed. It survives a power cut.
//   - flush.messages > 1: AckEnd is WrittenEnd. The direct write has completed; the flush follows after that many
//     records or flush.ms at the latest. It survives the death of the process and of the kernel, not
//     that of a device's volatile cache.
//
// Up to two groups of commits are in flight, the second being written while the first is flushed; they are acknowledged strictly in order.
//
// Acknowledged batches come back after a crash with the same offsets and bytes, without holes; what was not acknowledged
// may come back, but only as a prefix of what was appended to that log. Records between AckEnd and AppendedEnd can be read by those who
// ask for them (replication does). Truncate, Reset, SetLogStart, CreateLogs and DropLogs return when their record is
// flushed, whatever flush.messages is.
//
// A write or flush that fails ends the service of the directory (Options.OnFailed): it is neither repeated nor
// trusted. A full disk is not such a failure: appends get ErrDiskFull, reads go on, and the
// engine recovers by itself. Damage is reported as CorruptionError with file and position; a log that cannot be
// proved complete is quarantined: readable up to the damage, closed to appends. See FORMAT.md, and Check and
// Repair.
//
// Memory is bounded: the ring (Options.RingBytes a shard), chunk buffers, index and descriptor caches. The WAL on disk is bounded
// by Options.WALBytes a shard. Who finds either full gets ErrBusy and hears by Shard.OnRoom when to come back.
//
// Recovery reads the checkpoint and at most Options.WALBytes a shard, through a window of one commit, into the ring; what does not fit there goes
// to segments as usual. Commits of which nobody says that they were flushed, at most one WAL file of them, are read a second time and written again. Of
// segments it looks at names and sizes. Damaged WAL files lie outside the bound until they are repaired.
//
// # Two states of a log
//
// The head is what appends see: end offset, producers, epochs as of the newest record. The stable state is
// what has been moved to segments, exactly as of one record (its sequence number); it is what the
// checkpoint keeps, and the records after it are in the WAL and in the ring. Records other than batches (Truncate, Drop, ...) change
// the head at once, and the stable state when their turn comes.
//
// # Threads
//
//   - Append, reads and getters: any goroutine. Append holds the log's mu for a copy.
//   - The driver of a shard (the broker's loop that attached it, or a thread of the engine): Poll, OnRoom callbacks, Observer.Progress,
//     OnCommit. Never blocks. EventFD wakes it: no channel or mutex is waited on in the commit path.
//   - Two goroutines a shard: the mover (segmentWriter.run) and the checkpointer (runRounds). They block on files.
//   - One goroutine each for housekeeping, retention, compaction and stray files.
//   - Calls that say so block and must not be made on a loop: CreateLogs, DropLogs, Truncate, Reset, SetLogStart, Read with
//     MayBlock, Open, Close.
//
// Engine core and recovery are step machines: Poll, segmentWriter.step and stepRound do one step each and own no clock. The simulation
// (sim_test.go) drives the same code on engine/disk/simdisk through crashes in every window of FORMAT.md.
//
// # Lock order
//
// Outer before inner; what is not listed together is never held together.
//
//	stableState.writeMu    who changes a log's stable state; held during file writes
//	  Engine.mu            the registry of logs
//	    Log.mu             the head
//	      Shard.mu         open and closed commits, WAL files, slabs; a few instructions
//	      Log.endMu        the ends
//	    stableState.mu     what readers see of segments; never held during I/O
//	segment.loading        one loader of an index
//	  indexCache.mu        then stableState.mu
//	fileCache.mu           inner to all; not held during opens
//	Engine.logsDirMu, Engine.metaMu    held during I/O, nothing inside
//	Shard.polling          Poll against release; outermost on the driver
//
// # Files
//
//	engine.go driver.go options.go errors.go stats.go    Engine: open, create, drop, close; threads
//	meta.go strays.go                                    identity of the directory; files that nothing names
//	shard.go commit.go group.go ring.go wal.go           the commit path, with tuner.go and wakeup.go
//	log.go log_append.go log_admin.go log_epoch.go       one log: head, appends, other records
//	log_read.go log_time.go spans.go                     reads, by offset and by time
//	segment.go segment_index.go file_cache.go            segments, their indexes and descriptors
//	segment_writer.go mover.go round.go checkpoint.go    from the ring to segments and checkpoint
//	retention.go compaction*.go                          what goes
//	recovery*.go                                         what comes back: the story, then files, reading, replay, salvage, tail
//	wal_format.go checkpoint_format.go                   bytes; FORMAT.md in words
//	inspect*.go check*.go dump.go repair.go              a directory that nobody has open
//
// Leaves below: engine/batch (record batches), engine/index, engine/epoch, engine/producer (what the checkpoint keeps of a
// log), engine/disk (files, queues, and the simulated disk).
package engine
