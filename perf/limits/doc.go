// Command limits measures what this machine can do at best, so that a broker's figure has something to stand beside.
//
//	memory   copy within the cache and beyond it, CRC-32C
//	kernel   a system call, a poll that finds nothing, a wake-up between two threads
//	network  loopback by writev and by sendfile, with the processor time that the sending side takes
//	disk     a durable write on a file that was written before, one that was only allocated, and one that grows;
//	         one of three at a time; and how many bytes a second go to the device without flushing
//
// Every figure is a short measurement of its own: beside other work on the machine they show what is left of it.
// The result goes to the output as JSON; lines for people go to the error output while it measures.
package main
