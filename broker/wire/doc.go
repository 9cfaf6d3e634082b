// Package wire walks and writes the two requests that carry records, Produce
// and Fetch, straight on the bytes of a frame.
//
// Every other message is decoded by kmsg; these two are by far the most
// frequent and the largest, so they are read without an allocation per
// request: the visitor structs below are reused, names and records are
// sub-slices of the frame. kmsg is the oracle that the tests compare with.
//
// # Contract
//
// Decoded slices alias the frame and live as long as it does. Every length and
// count is checked against the bytes that are left before it is believed: a
// count can never make a decoder reserve more than the frame it came in.
// Nothing here is safe for concurrent use; nothing here blocks.
//
// Message definitions: Apache Kafka 4.3, clients/src/main/resources/common/message
// (ProduceRequest.json 3-13, FetchRequest.json 4-18, RequestHeader.json 1-2).
package wire
