// Package bench loads a Kafka-compatible broker and measures what came back.
//
// Three modes, two loops:
//
//	produce      records in, latency until the acknowledgement
//	consume      records out, as fast as they come
//	end-to-end   records in and out again, latency until the consumer has the record
//
//	closed loop  Concurrency tasks on one client, each waits for its record before it sends the next one: the
//	             rate is an outcome (Concurrency / latency), and a stall slows the load down with the broker
//	open loop    Rate records a second, whatever the broker does; latency counts from the moment at which the
//	             record was due, so a stall is charged to every record that it delayed
//
// Rules of honesty: throughput is records acknowledged inside the measured window over the length of that
// window, nothing else; every latency sample is kept (HdrHistogram, three digits); failures are counted and
// shown; the durability class of what was measured is part of the result; Verify reads every acknowledged
// record back at its acknowledged offset and fails the run if one is missing, changed or there twice.
//
// Raw mode leaves the client library out, so that it shows the broker's ceiling where the client would be the
// bottleneck. It is closed or open like the other, with Concurrency connections and Inflight requests on each:
//
//	epoll loop --> answers --> ledger, latency --> next requests of each window: stamp, one write a connection
//
// A request is encoded once. What makes it another one for every send, the number and the time in its first
// record, changes 24 bytes, and its checksum is worked out from theirs. Raw readers look at batch headers and
// throw the rest away; the raw verification reads the checksums of all bytes as well.
//
// Run is the only entry; one run at a time.
package bench
