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
// # A broker among several
//
// Options.Cluster opens the cluster port (raft/transport); cluster.go has the order of a start:
//
//	engine, event loops      the logs are there, nobody asks for them
//	raft.Open, AwaitReady    a quorum of the voters answers
//	Form                     once in the life of the cluster; its id goes into the data directory
//	controller.Run           every node runs one, the metadata's leader decides
//	listeners are bound      nobody is accepted yet
//	RegisterBrokerV2         fenced; the answer is the broker epoch; what may be lost is told (registration.go)
//	replica.Set.Apply        logs of new partitions are made; still nothing is led
//	controller.NewSession    heartbeats; the controller unfences, and leaderships come with the next images
//	clients are accepted
//
// Any broker answers any admin request: it proposes by itself and answers once its own image has the outcome. A stop
// asks the controller to take the leaderships first, which a lost quorum delays by a second.
//
// What the metadata acts on (min.insync.replicas, unclean.leader.election.enable, auto.leader.rebalance.enable) is the
// topic's setting, else the cluster-wide dynamic one, else the default. A node's file gives its value to a cluster
// that has none, and a cluster that three nodes or more formed begins with min.insync.replicas=2.
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
// Transactions, KIP-848 groups, share groups, TLS, SASL, ACLs, quotas, several
// advertised listeners, tiered storage. None is advertised, and asking for one gets an
// error or a closed connection, as Kafka answers what it does not know.
package broker
