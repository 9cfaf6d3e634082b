// Package fault breaks a cluster, one fault or two at a time, and takes every fault back.
//
// Catalog is what can be done to a cluster as it is set up, with the reason for what cannot. Plan is a sequence of
// faults that follows from a seed alone; the same seed on the same kind of cluster gives the same faults at the same
// distances. A fault returns an error when the cluster has not kept a promise that can be seen from here: a node that
// does not end in an orderly way, or does not come back.
package fault
