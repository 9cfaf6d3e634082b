// Command nullbroker is the ceiling that a broker on package netpoll can reach: it
// speaks enough of Kafka's protocol for any producer, walks Produce requests down to
// the batch headers, answers them with ascending offsets, and keeps nothing.
//
//	netpoll loop --> header --> Produce: walk, count ------------------> answer
//	                       \                  \--flush: gather, one durable write a turn --> answer
//	                        +-> ApiVersions, Metadata, CreateTopics, InitProducerId (kmsg)
//
// With --flush every loop has one pre-written file, and the batches of a turn are
// written to it with O_DIRECT and RWF_DSYNC before they are answered; what arrives
// while a write is in flight is the next write. That is the least that a broker must
// do whose acknowledgement means durable, without log, index, checksum or
// replication.
//
// Any topic exists once it is asked for, with --partitions partitions. Nothing can be
// consumed: a Fetch is answered with no record.
package main
