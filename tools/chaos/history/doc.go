// Package history judges what clients of a cluster did and saw.
//
//	clients --Event--> Recorder --line--> file      can be judged again
//	                      |
//	                      +-----> Checker --> Violations
//
// An event is something that one client knows for certain at the moment it is told: this record was sent, this one
// acknowledged at that offset, this one was shown to me there. The checker keeps, for every offset of every partition,
// what has to stand there, and books a violation as soon as two events cannot both be true. Finish judges the rest,
// when every partition was read from start to end by a fresh reader after all faults have been taken back.
//
// # Rules
//
//	inconsistent     two values at one offset, by whomever they were acknowledged (acks=all) or shown
//	lost-write       acknowledged with acks=all, and not at its offset in the end
//	lost-read        shown to a consumer, and not at its offset in the end
//	unseen           an offset below the end that cannot be read
//	short            the end is below what was acknowledged or shown
//	duplicate        a value of an idempotent producer at two offsets
//	order            the records of one idempotent producer stand in another order than they were sent in
//	nonmonotonic-send      a later record was acknowledged at a lower offset (another batch of the same client)
//	int-nonmonotonic-send  the same inside one batch
//	nonmonotonic-poll      a consumer is shown an offset again without a rebalance
//	int-nonmonotonic-poll  the same inside one poll
//	poll-skip        a consumer jumps over offsets, or a group over records that no member was shown
//	list-back        the newest offset that one client was told is below one that it knew before
//	epoch-back       a batch of an older leader epoch behind one of a newer one
//	two-epochs       one offset with two leader epochs
//	two-leaders      two leaders in one epoch of one partition
//	commit-back      a group offset older than the one that was acknowledged before
//	unsent           a record that nobody sent, or whose bytes have changed
//	data-loss        a client was told that what it had read is gone
//	unexplained-loss an acks=1 record lost although no fault was near
//	replicas         two replicas differ, or a directory is not sound
//	harness          the run itself could not do what it must: no progress, a node that does not come back
//
// Records of acks=1 that are lost are counted; near a fault they are not a violation. Transactions are not
// used, so an offset without a record is always a violation. Nothing here does I/O but Recorder and Parse.
package history
