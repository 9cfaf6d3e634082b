// Package raft agrees on who leads what: brokers, topics, partitions, configs and producer-id blocks,
// in one replicated state machine on dragonboat. Records of topics never pass through it.
//
//	broker                          Image()   Updates(old, now)
//	  | Propose(Command)               ^          ^
//	  v                                |          |
//	Node --> dragonboat --> stateMachine: apply(Image, Command) -> Image, Result
//	            |   |
//	transport --+   +-- raft/logdb (journal)  and  snapshots/ (through libraryFS)
//	  |
//	raft/transport: the cluster port, of nodes that have one (Options.Cluster)
//
// Contract:
//   - An Image is immutable. Holding one holds a consistent view; the newest is one atomic load away.
//   - Propose answers when the command is durable and applied here: Node.Image then shows it (or
//     something newer). A refusal is Result.Code; an error means that there is no answer.
//   - Commands are compare-and-set. After ErrOutcomeUnknown propose again or look at the image.
//   - Update never waits for a consumer; consumers of Updates see the newest image and diff.
//   - No process leads in an epoch it did not begin: RegisterBroker raises the leader epochs of
//     all partitions that the broker leads, in the same command.
//   - Commands above the finalised level are refused by every version alike; a replica that meets an
//     accepted command that it cannot apply keeps its last image, and stops (Options.OnFailed).
//
// Not agreed here: broker sessions (soft state of the controller), high watermarks, offsets, groups.
//
// apply.go and what it calls are pure: no clock, no randomness, no order of Go maps. Time comes inside
// commands. Two replicas at one index have equal Image.Hash.
//
// A standalone node is a cluster of one voter; no port is opened (transport.go). The directory is
// bound to the replica id only, never to a host name or an address (files.go).
//
// A node of a cluster (Options.Cluster) is one of up to five voters, or follows without a vote. Open does not wait for
// the others; AwaitReady does. The life of a node:
//
//	n := Open(...)            Bootstrap: first start of the first nodes, Join: of later ones
//	n.AwaitReady(ctx)         a quorum answers
//	n.Form(ctx)               the cluster has an id; engine's meta file notes it
//	Propose(RegisterBrokerV2) fenced; Result.Value is the broker epoch
//	n.SetBrokerEpoch(...)     then package raft/controller: Run before, NewSession after the registration
//
// A raft replica has one data directory for ever: peers keep a file of whom they ever met (peerbook.go), the state binds
// replica ids to directories, and a replica id is never used twice. So a wiped voter cannot vote in its own name.
//
// Any node may Propose. What is forwarded to a leader that dies is lost: Propose says ErrOutcomeUnknown after two
// seconds, ProposeAgain repeats. Reads (Latest) repeat by themselves. RULES.md says which test holds which rule.
package raft
