package admin

import "time"

// ClusterStatus is what GET /cluster answers: the cluster as the answering node sees it after it has asked a quorum.
type ClusterStatus struct {
	ClusterID string `json:"cluster_id"`
	// AnsweredBy is the node that was asked.
	AnsweredBy int32 `json:"answered_by"`
	// Controller is the node that decides, -1 for none; ControllerEpoch counts them.
	Controller      int32 `json:"controller"`
	ControllerEpoch int64 `json:"controller_epoch"`
	// Level is the metadata level in force, LevelPossible the highest that all nodes know: finalize may go up to it.
	Level         int              `json:"level"`
	LevelPossible int              `json:"level_possible"`
	Nodes         []NodeStatus     `json:"nodes"`
	Partitions    PartitionSummary `json:"partitions"`
}

// NodeStatus is one node of a cluster.
type NodeStatus struct {
	ID          int32  `json:"id"`
	Address     string `json:"address"`      // for clients, host:port; "" if it never registered
	ClusterAddr string `json:"cluster_addr"` // for the other nodes, host:port
	Rack        string `json:"rack,omitempty"`
	State       State  `json:"state"`
	Draining    bool   `json:"draining"`
	Voter       bool   `json:"voter"`
	// Reachable and MetadataIndex are of its replica of the metadata, as seen from the answering node.
	Reachable     bool   `json:"reachable"`
	MetadataIndex uint64 `json:"metadata_index"`
	MaxLevel      int    `json:"max_level"` // the highest level that it knows; 0 if it never registered
	// Leads, Replicas and InSync count partitions: those that it leads, has a replica of, is in the ISR of.
	Leads    int `json:"leads"`
	Replicas int `json:"replicas"`
	InSync   int `json:"in_sync"`
	// Heard is the age of its last heartbeat in milliseconds; -1 if the answering node never heard one.
	Heard Milliseconds `json:"heard_ms"`
}

// State is what a node may do.
type State string

// The states of a node.
const (
	Live     State = "live"     // it may lead and follow
	Fenced   State = "fenced"   // silent, starting, or its directory failed: it leads nothing and is in no ISR that has others
	Stopping State = "stopping" // it asked to stop and hands over
	Absent   State = "absent"   // a member of the metadata that never registered as a broker
)

// PartitionSummary counts the partitions of a cluster.
type PartitionSummary struct {
	Total           int `json:"total"`
	Offline         int `json:"offline"`          // without a leader: nothing can be written or read
	UnderMinISR     int `json:"under_min_isr"`    // acks=all is refused
	UnderReplicated int `json:"under_replicated"` // a replica is not in sync
	Moving          int `json:"moving"`           // being reassigned
}

// Milliseconds is a time in whole milliseconds.
type Milliseconds int64

// Duration is m as Go's.
func (m Milliseconds) Duration() time.Duration { return time.Duration(m) * time.Millisecond }

// Node finds a node by its number.
func (s *ClusterStatus) Node(id int32) (NodeStatus, bool) {
	for _, n := range s.Nodes {
		if n.ID == id {
			return n, true
		}
	}
	return NodeStatus{}, false
}

// Voters counts the nodes that vote on the metadata.
func (s *ClusterStatus) Voters() (all, reachable int) {
	for _, n := range s.Nodes {
		if n.Voter {
			all++
			if n.Reachable {
				reachable++
			}
		}
	}
	return all, reachable
}
