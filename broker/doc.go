// Package broker is the Kafka shell over the log, the poller and the metadata:
// it decodes, decides, appends, waits and answers, and holds no bytes of its
// own.
//
//	netpoll.Conn ── frame ──> OnFrame ── header, dispatch table (dispatch.go)
//	                             │
//	     raw (loop)              │ inline (loop)            blocking (worker)
//	     Produce, Fetch          │ group APIs, ApiVersions  everything else
//	        │                    │      │                        │
//	        ▼                    ▼      ▼                        ▼
//	  replica.Partition     group.Shard state machines      raft.Propose, Image
//	        │                    │ records
//	        ▼                    ▼
//	  engine.Log ── commit ──> Progress ──> high watermark ──> answers, in order
//
// # Life of a produce request
//
// The loop hands over the frame. The request is walked in place; each batch is
// checked (length, CRC-32C, counts, timestamps), gets its offset in the
// engine's critical section and is copied into the open commit. At the end of
// the turn the loop submits the commit. When it is on the device the shard calls
// Partition.Progress: the high watermark moves, the requests that waited for it
// are answered in their connections' order. acks=0 takes the same way without an
// answer.
//
// # Ordering
//
// Raw and inline handlers run on the connection's loop in the order of the
// requests; blocking ones may overtake each other. Answers leave in the order of
// the requests whatever happens (netpoll's slots).
//
// # Threads and locks
//
// A connection's session, its requests and their answers live on its loop.
// Others reach it by Post. Lock order: groups.mu, groupShard.mu,
// replica.Set.mu, replica.Partition.mu, then the engine's. Nothing blocks under
// any of them.
//
// # Back-pressure
//
// An append never blocks. When the engine has no room (ring or WAL full) the
// request is parked with its frame, its connection delivers nothing more, and it
// goes on when the shard has room.
//
// # Deliberately not here yet
//
// Transactions, KIP-848 groups, share groups, TLS, SASL, ACLs, quotas,
// replication, tiered storage. None is advertised, and asking for one gets an
// error or a closed connection, as Kafka answers what it does not know.
package broker
