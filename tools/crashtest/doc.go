// Crashtest kills a real broker under load, again and again, and checks that it kept its promises.
//
//	producers --records--> broker process --records--> tail readers
//	    |  acknowledged (partition, offset)        seen  |
//	    +-----------------> ledger <---------------------+
//	                          |  after each kill -9 and restart, and over everything at the end:
//	                          +-- is each record that was acknowledged or seen still at its offset, whole?
//	                              are offsets dense? does an idempotent producer's record stand there once, in order?
//	                              is a committed group offset still what was acknowledged? does a created topic exist,
//	                              and has a deleted one stayed deleted?
//
// A kill -9 shows that nothing is acknowledged from the process's memory. It does not show that the device was
// flushed: the kernel survives. With -power the data lies on a disk of its own that forgets what was not flushed
// (tools/powercut), and a round ends with the loss of its power.
//
// A round ends with SIGKILL, every few rounds with SIGTERM; the process must then end with 0 within seconds.
// Everything random comes from one seed, which is printed.
package main
