// Package producer remembers the idempotent and transactional producers of one
// log, by Kafka's rules (ProducerStateManager, ProducerAppendInfo, ProducerStateEntry).
//
//	Check(header)           is it the next batch, one that we have, or out of order?
//	   |                    reads only
//	   v
//	(the log gives offsets and places the batch)
//	   |
//	   v
//	Apply / ApplyControl    the batch is part of the log now: remember it.
//	                        Recovery and followers call only these.
//
// # Contract
//
//   - Of each producer the last five batches are kept; a batch with the same epoch and the same
//     sequence range as one of them is a duplicate, and gets the offsets of the original.
//   - The next sequence follows the last one, and 2^31-1 is followed by 0. A new epoch starts at 0. A
//     producer that the log does not know may start anywhere: its state may have expired.
//   - An older epoch is refused (ErrInvalidEpoch).
//   - The state is a function of the batches that were applied, in their order, and of
//     the calls to Expire. Encoding is deterministic.
//   - Check and Apply do not allocate for a producer that is known.
//
// # Threads
//
// Nothing here locks; the owner of the log does.
package producer
