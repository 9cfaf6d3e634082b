// Package load is what clients do to a cluster while it is taken apart, and what they record of it.
//
//	Producer   numbered records in bursts to random partitions: idempotent, acks=all or acks=1
//	Reader     all partitions from the start, by itself; it asks for the newest offsets, too
//	Member     of a consumer group whose members come and go
//	Committer  raises a group's offset and reads it back
//	Watcher    asks each node who leads
//	Prober     one record to every partition: is there progress?
//	Last       reads everything from start to end when all is over
//
// Each is one goroutine with clients of its own and a number of its own; what it records, it knows. Everything ends with
// its context, except for producers, which first get their last records through.
package load
