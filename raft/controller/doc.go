// Package controller decides for the cluster: which brokers are alive, who leads, who holds what.
//
//	broker: Session --Heartbeat--> every voter: Controller --Observe--> Core
//	          ^                                    |                      | Tick(now, Image, epoch)
//	          +--- Answer, after a quorum round ---+                      v
//	        Lease                                        commands with the controller epoch --> raft.Propose
//
// Core is pure: images, heartbeats and the time go in, commands come out. It has no clock, no goroutine and no
// randomness, and is run by every voter; only the one that leads the shard and has claimed it (Node.ControllerEpoch)
// gets commands out of it. Everything that it proposes carries the controller epoch or the partition's epoch, so that
// what comes late is refused by apply and not by hope.
//
// Contract:
//   - A broker is fenced when nothing was heard of it for a session by the controller's own observation, at once when it
//     falls silent and its machine says that nobody listens on its cluster port any more, when its data directory failed, or
//     when a flush of its is unfinished for a session. A process that stood still itself blames nobody for it.
//   - A broker's lease is shorter than its session and counts from when the answered heartbeat was sent.
//   - Leaders come from the ISR, then the ELR. Outside both only by the topic's own setting, after a wait, and loudly.
//   - Preferred leaders return, drained brokers are emptied, a few partitions at a time.
//
// Place, Balance and the like are pure too: they turn an image into assignments and know of racks.
//
// Threads: Core belongs to one goroutine or lock; Controller and Session are safe for concurrent use.
package controller
