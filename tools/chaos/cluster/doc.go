// Package cluster runs the nodes of one cluster as processes on this machine, and takes them, their network and
// their disks apart.
//
//	Cluster --+-- Node 1: process, Volume, address
//	          +-- Node 2
//	          +-- Node 3
//	          +-- Network: loopback, or a network namespace a node
//
//	namespace of the tool (its own: Isolate)      namespace of a node
//	  bridge 10.77.0.254 -- veth -----------------  eth0 10.77.0.N
//
// On loopback nodes can be killed, stopped and restarted. With namespaces, which need root and ip(8), the way between
// any two of them can be cut, one direction at a time: a neighbour entry with an address that nobody has makes packets
// disappear as a broken switch does, without a word to the sender. With disks (tools/powercut: root, FUSE, loop
// devices) power can be cut, flushes made slow or false, and space used up.
//
// A Node's methods are for one goroutine at a time; different nodes are independent.
package cluster
