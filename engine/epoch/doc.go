// Package epoch keeps at which offset each leader epoch of a log began.
//
//	epoch      3         4    7
//	offset ----0---------120--121------------ log end
//	           |---------|    EndOffsetFor(3) = 120: where a follower whose last record is of
//	                          epoch 3 must cut before it follows the leader of epoch 7 (KIP-101, KIP-279)
//
// # Contract
//
// Epochs and start offsets both grow strictly: an epoch in which nothing was written vanishes
// when the next one begins at the same offset. The cache is cut together with the log, also when no bytes were cut
// (KAFKA-7164 and its relatives show what happens otherwise).
//
// # Threads
//
// Nothing here locks; the owner of the log does.
package epoch
