// Package group is Kafka's classic group protocol as a pure state machine:
// who is in a group, which generation it is in, what each member was assigned,
// and which offsets the group has committed.
//
//	request ----> Shard ----> Effects { Records, Replies }
//	clock tick ->   ^              |          |
//	                |              v          v
//	Replay(record) -+---- __consumer_offsets  sent once the records are durable
//
// A Shard is the state of one partition of __consumer_offsets. A handler decides
// at once and changes the state at once; what it returns is to be made durable
// first and told to the clients afterwards. Replaying the records, in log order,
// into an empty Shard gives the same groups back, without their open rebalances,
// exactly as after a coordinator failover in Kafka.
//
//	         first join             all joined, or time is up
//	Empty ---------------> PreparingRebalance ---------------> CompletingRebalance
//	  ^                      ^      |     ^                         |        |
//	  |     nobody is left   |      |     |   join, leave, timeout  |        | leader's
//	  +----------------------+------+     +-------------------------+        | assignment
//	                         |                                               v
//	                         +------------------------------------------- Stable
//
//	Dead: the group is gone (deleted, expired), or its shard was unloaded.
//
// # Contract with the broker
//
//   - The broker appends Effects.Records in order, and the records of one call
//     before those of the next. They may be split over several batches: every
//     prefix of them is a valid state.
//   - It sends Effects.Replies only when those records, and all that were appended
//     before them, are durable. A reply without records waits as well, since it may
//     speak of state whose records are still under way.
//   - If a call's records cannot be appended (storage full, too large) and no other
//     call has been made since, Reject takes the change back and gives the error
//     replies. If records are lost later, the state is worthless: Unload it, turn
//     the replies that are still held into errors with Fail, and load again.
//   - Every token handed in comes back with exactly one reply, in the Effects of this
//     call or of a later one, unless Gone was told about it or the state was unloaded
//     and dropped. Tokens must be comparable and not be used twice at the same time.
//   - Requests must own their strings (kmsg's ReadFrom, not UnsafeReadFrom). Byte
//     slices may alias a frame: what is kept of them is copied.
//   - DescribeGroups and DeleteGroups take the groups of the request that belong to
//     this shard; OffsetFetch takes one group in either form (v0-7, v8+). The broker
//     splits requests by PartitionFor, merges the answers, checks authorization and
//     the existence of topics, and resolves topic ids to names and back (v10).
//
// # Time
//
// There is no clock in here: time is passed in, and must not go back. The broker calls
// Tick when NextDeadline is reached; calling it early or late does no harm.
//
// # Threads
//
// A Shard is not safe for concurrent use: the broker holds a lock per Shard. Effects
// belong to the caller; the byte slices in them are not changed any more.
//
// # Not done
//
// KIP-848 consumer groups, share groups and streams groups: their records are skipped
// at replay, with ErrUnknownRecord. Transactional offset commits: OffsetFetch asks
// group.unstable, which is where they will plug in.
package group
