// Package replication carries batches from the leaders of partitions to their followers: it pushes, in parallel with the
// leader's own flush, over connections of the cluster port (raft/transport), and brings the acknowledgements back.
//
//	leader's broker                                                       follower's broker
//
//	replica.Partition                                                      replica.Partition
//	   | Lead Resign Appended Moved                                  Stored |      ^ Follow CutTo
//	   v                                                                    v      | AppendRun TakeMark
//	 Node -- outflow -->  Sender  ==== Open, Verdict, runs, marks ====>  Receiver -- inflow
//	   ^                    |     <=== Offer, acknowledgements, Fail ===    |
//	   | OpenStint Offered  |                                               |
//	   +-- Acknowledged ----+      two connections a peer: tail, catch-up   |
//
// # One stream
//
//	leader                                             follower
//	OpenStint
//	Open{epoch, generation, log start, hw, image} -->  waits until its image is that far
//	                                                   Follow: older streams are refused from now on
//	Offered  <------------------ Offer{last epoch, end, hw, broker epoch}
//	Verdict: Cut, Restart ---------------------------> CutTo, flushed; offers again
//	Verdict: Agreed ---------------------------------> Agree
//	runs, marks -------------------------------------> AppendRun, TakeMark
//	Acknowledged  <----------- Ack{epoch, generation, received, stored}
//
// A stream is opened by the leader and named by a number that its connection never uses again, so that what is under way when it
// is closed finds nobody. What goes wrong is told by a Fail of that stream; the leader closes it and opens another after a
// back-off (100 ms doubling to 2 s), at once when Lead is called again, when the follower registers anew, or with a new connection.
//
// # Contract
//
//   - A run starts where the one before it ended, or the follower fails the stream. Nothing is left out in the middle: a full
//     window (8 MiB of batches on a connection not acknowledged as received) pauses the sender.
//   - Every byte of a batch that is appended is covered: by the batch's own checksum, or by what the head of its
//     frame says (runs.go).
//   - What is sent for a stint was read while the partition led in the stint's epoch.
//   - What is acknowledged as stored for a stream is no more than this stream has brought or agreed on, and was looked at
//     before another stream took the partition, so before another could cut it.
//   - An acknowledgement counts for the epoch and the generation of the stream's stint alone.
//   - A partition moves between the two connections only when all that was sent is acknowledged as stored, by a new stint.
//   - CORRUPT makes the leader read its own copy again: bad, and it resigns (Damaged); good, and it is sent again, three times,
//     then with a back-off.
//
// # Step machines and threads
//
// Node, Sender and Receiver have no goroutine and no clock: Next gives frames to write, OnFrame takes those that came, both are
// told the time. What blocks on the device (Follow, CutTo, reading the own copy again, but not the catch-up stream's reads: those
// block its Next alone) goes through NodeOptions.Aside. Replication drives them: for each connection a writer
// and a reader; the dialing end reconnects with a back-off.
//
// The methods of replica.Replicator may be called under a partition's lock. They take leaf locks only and wake the
// writer only if it sleeps: appends that find it at work cost an atomic load a follower.
//
// # Lock order
//
//	Sender.mu, Receiver.mu, seat.following    held while partitions are called; not while logs are read
//	  Partition.mu                            (of package replica)
//	    Node.mu                               peers and tables
//	      inbox.mu                            news; a leaf
//
// # Files
//
//	node.go partition.go           Node: who leads what, and who follows
//	outflow.go sender*.go verify.go throttle.go    the leader's end
//	inflow.go receiver.go          the follower's end
//	message.go runs.go frame.go    bytes
//	inbox.go queue.go              news between threads; lists
//	replication.go link.go stats.go   goroutines, connections, counters
package replication
