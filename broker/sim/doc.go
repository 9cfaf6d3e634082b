// Package sim simulates whole clusters in one process, from a seed: brokers over simulated disks, network and clock, with
// producers and consumers, under every fault that can be thought of. It consists of tests.
//
//	producers, consumers ──> node ── replica.Set ── engine (real) ── simdisk
//	      │                    │  └─ streams (real) ── conn ──> another node
//	      v                    └──── heartbeats ──> voter ── controller.Core (real)
//	   ledger                                         │
//	      ^                  proposals ──> simraft.Log ── raft.Image.Apply (real) ──> images, late and skipping
//	      └── checks continuously, and once more after all is healed
//
// Everything happens in events on one goroutine, in an order that the seed draws: a run repeats exactly. A failure
// prints its seed and the last events; -sim.seed=N runs it again, -v with all events.
//
// # What must hold
//
// What was acknowledged with acks=all is there in the end, once, where it was said to be. What a consumer was given is
// there in the end. No client sees an end of the log that lies before one that it saw. After healing every partition
// makes progress, has its full ISR, and all its replicas are byte for byte the same.
//
// What cannot be held is excluded exactly: what an unclean election of a topic that allows it gives up, and what stood
// on the devices of brokers that all lost it (a topic that acknowledges before the flush, a disk that was replaced). The
// faults never take the last copy of anything else.
//
// Package broken's rules, removed one by one (-tags broken), must each be noticed: see ../replica/RULES.md.
package sim
