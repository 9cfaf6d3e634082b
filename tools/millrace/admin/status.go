package admin

import "millrace/broker"

// What GET /cluster answers is what the broker says of its cluster: see package broker.
type (
	// ClusterStatus is the cluster as the answering node sees it after it has asked the others.
	ClusterStatus = broker.ClusterStatus
	// NodeStatus is one node of a cluster.
	NodeStatus = broker.NodeStatus
	// State is what a node may do.
	State = broker.NodeState
	// PartitionSummary counts the partitions of a cluster.
	PartitionSummary = broker.PartitionSummary
	// Milliseconds is a time in whole milliseconds.
	Milliseconds = broker.Milliseconds
)

// The states of a node.
const (
	Live     = broker.NodeLive
	Fenced   = broker.NodeFenced
	Stopping = broker.NodeStopping
	Absent   = broker.NodeAbsent
)

// A broker is what the server asks.
var _ Cluster = (*broker.Broker)(nil)
