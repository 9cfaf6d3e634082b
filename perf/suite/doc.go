// Command suite runs the profile of record: it starts brokers, loads them, and puts what they did beside what the
// machine and a broker that does nothing can do. perf/run.sh and its neighbours build it and call it.
//
//	machine --> limits --> round 1: rows there, round 2: rows back, ... --> medians --> table, JSON, plots
//	                         |
//	                         +- a row and a system: fresh directory, start, load, sample, read back, stop
//
// Systems are Millrace flushing (D2), Millrace acknowledging after the write (D1), the null broker, the null broker
// that makes one durable write a turn, and, to compare with, Apache Kafka as it comes (K1) and flushing (K2). Three
// brokers that replicate are systems of their own (D2x3, K1x3, K2x3) with rows of their own: what is one broker in the
// picture is then a cluster, and a run counts only if its replicas stayed in sync and are the same afterwards.
// Figures of one row are ratios within one run; a row whose load generator may have been the bottleneck, or that
// lost an acknowledged record, says so in the table.
//
// The suite only starts processes and reads counters; the load is `millrace bench`, a process of its own. It ends
// every process that it has started, by its number, when it ends for whatever reason.
package main
