package broker

import (
	"cmp"
	"context"
	"net"
	"slices"
	"strconv"
	"time"

	"millrace/raft"
)

// ClusterStatus is the cluster as one broker sees it, after it has asked the other nodes.
type ClusterStatus struct {
	ClusterID string `json:"cluster_id"`
	// AnsweredBy is the node that was asked.
	AnsweredBy int32 `json:"answered_by"`
	// Controller is the node that decides, -1 for none that a quorum follows; ControllerEpoch counts them.
	Controller      int32 `json:"controller"`
	ControllerEpoch int64 `json:"controller_epoch"`
	// Level is the metadata level in force, LevelPossible the highest that all brokers know.
	Level         int              `json:"level"`
	LevelPossible int              `json:"level_possible"`
	Nodes         []NodeStatus     `json:"nodes"`
	Partitions    PartitionSummary `json:"partitions"`
}

// NodeStatus is one node of a cluster.
type NodeStatus struct {
	ID          int32     `json:"id"`
	Address     string    `json:"address"`      // for clients, host:port; "" if it never registered
	ClusterAddr string    `json:"cluster_addr"` // for the other nodes, host:port
	Rack        string    `json:"rack,omitempty"`
	State       NodeState `json:"state"`
	Draining    bool      `json:"draining"`
	Voter       bool      `json:"voter"`
	// ReplicaID is of its replica of the metadata, 0 if that was removed. Reachable and MetadataIndex are what it said
	// to the answering node just now.
	ReplicaID     uint64 `json:"replica_id"`
	Reachable     bool   `json:"reachable"`
	MetadataIndex uint64 `json:"metadata_index"`
	BrokerEpoch   int64  `json:"broker_epoch"` // -1 if it never registered
	MaxLevel      int    `json:"max_level"`    // the highest level that it knows; 0 if it never registered
	// Leads, Replicas and InSync count partitions: those that it leads, has a replica of, is in the ISR of.
	Leads    int `json:"leads"`
	Replicas int `json:"replicas"`
	InSync   int `json:"in_sync"`
	// Heard is the age of its last heartbeat; -1 if the answering node never heard one.
	Heard Milliseconds `json:"heard_ms"`
}

// NodeState is what a node may do.
type NodeState string

// The states of a node.
const (
	NodeLive     NodeState = "live"     // it may lead and follow
	NodeFenced   NodeState = "fenced"   // silent, starting, or its directory failed: it leads nothing and is in no ISR
	NodeStopping NodeState = "stopping" // it asked to stop and has handed over
	NodeAbsent   NodeState = "absent"   // a member of the metadata that never registered as a broker
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

// statusPatience bounds the asking of a quorum: a status that says that there is none is worth more than an error.
const statusPatience = 2 * time.Second

// ClusterStatus asks the other nodes, for a few seconds at most, and says what it knows.
func (b *Broker) ClusterStatus(ctx context.Context) (ClusterStatus, error) {
	asking, cancel := context.WithTimeout(ctx, statusPatience)
	defer cancel()
	_, err := b.meta.Latest(asking)
	if ctx.Err() != nil {
		return ClusterStatus{}, ctx.Err()
	}
	quorum := err == nil
	members := b.meta.Known(ctx)
	img := b.meta.Image()
	s := ClusterStatus{
		ClusterID: img.ClusterID, AnsweredBy: b.nodeID, Controller: raft.NoBroker, ControllerEpoch: int64(img.Controller.Epoch),
		Level: int(img.Level), LevelPossible: int(possibleLevel(img)),
	}
	if l, ok := b.meta.Leader(); ok && quorum && l.NodeID == img.Controller.NodeID {
		s.Controller = l.NodeID
	}
	nodes := map[int32]*NodeStatus{}
	for id, n := range img.Brokers {
		st := &NodeStatus{
			ID: id, Rack: n.Rack, Draining: n.Draining, BrokerEpoch: n.Epoch, MaxLevel: int(n.MaxLevel), State: NodeLive, Heard: -1,
		}
		if n.Host != "" {
			st.Address = net.JoinHostPort(n.Host, strconv.Itoa(int(n.Port)))
		}
		switch {
		case n.Epoch < 0:
			st.State, st.MaxLevel = NodeAbsent, 0
		case n.ShuttingDown:
			st.State = NodeStopping
		case n.Fenced:
			st.State = NodeFenced
		}
		nodes[id] = st
	}
	for _, m := range members {
		n := nodes[m.NodeID]
		if n == nil {
			n = &NodeStatus{ID: m.NodeID, State: NodeAbsent, BrokerEpoch: -1, Heard: -1}
			nodes[m.NodeID] = n
		}
		n.ReplicaID, n.Voter, n.Reachable, n.MetadataIndex = m.ReplicaID, m.Voter, m.Reachable, m.Index
		n.ClusterAddr = replicaAddr(img, m.ReplicaID)
	}
	s.Partitions = countPartitions(img, nodes)
	for id, n := range nodes {
		if c := b.cluster; c != nil {
			if ago, _, ok := c.controller.Heard(id); ok {
				n.Heard = Milliseconds(ago.Milliseconds())
			}
		}
		s.Nodes = append(s.Nodes, *n)
	}
	slices.SortFunc(s.Nodes, func(a, b NodeStatus) int { return cmp.Compare(a.ID, b.ID) })
	return s, nil
}

// possibleLevel is the highest level that every broker can apply.
func possibleLevel(img *raft.Image) uint16 {
	level := raft.MaxLevel
	for _, n := range img.Brokers {
		level = min(level, n.MaxLevel)
	}
	return max(level, img.Level)
}

// countPartitions counts for the cluster, and for each of nodes.
func countPartitions(img *raft.Image, nodes map[int32]*NodeStatus) (s PartitionSummary) {
	img.EachTopic(func(t *raft.Topic) bool {
		for _, p := range t.Partitions {
			s.Total++
			if p.Reassigning() {
				s.Moving++
			}
			if p.Leader == raft.NoLeader {
				s.Offline++
			} else if n := nodes[p.Leader]; n != nil {
				n.Leads++
			}
			if len(p.ISR) < len(p.Replicas)-len(p.Adding) {
				s.UnderReplicated++
			}
			if len(p.ISR) < img.MinISR(t, p) {
				s.UnderMinISR++
			}
			for _, id := range p.Replicas {
				if n := nodes[id]; n != nil {
					n.Replicas++
					if slices.Contains(p.ISR, id) {
						n.InSync++
					}
				}
			}
		}
		return true
	})
	return s
}
