package raft

import (
	"slices"

	"millrace/raft/broken"
)

const (
	maxLiveReplicas = 256 // raft replicas, non-voting ones included
	maxListeners    = 32
	maxAddrBytes    = 512
)

func (m *Image) registerBrokerV2(c *RegisterBrokerV2, r *Result) {
	if len(c.Listeners) > maxListeners || len(c.Addr) > maxAddrBytes {
		r.refuse(LimitExceeded, "%d listeners", len(c.Listeners))
		return
	}
	for _, l := range c.Listeners {
		if len(l.Name) > maxHostBytes || len(l.Host) > maxHostBytes {
			r.refuse(LimitExceeded, "listener of %d bytes", len(l.Name)+len(l.Host))
			return
		}
	}
	m.register(&c.RegisterBroker, c, r)
}

// admitted reports whether the cluster itself gave the broker's replica to this directory (AddReplica), which it
// does only after the replica of the old one was removed.
func (m *Image) admitted(c *RegisterBroker) bool {
	r := m.Replicas[c.ReplicaID]
	return r != nil && !r.Removed && r.NodeID == c.ID && r.DirectoryID == c.DirectoryID
}

// lost reports whether the broker cannot be trusted with a partition after its unclean stop.
func (c *RegisterBrokerV2) lost(m *Image, t *Topic, p *Partition) bool {
	if c.PowerLost && m.relaxed(t, c.RelaxedByDefault) && !broken.PowerLossForgiven {
		return true
	}
	for i := range c.Damaged {
		d := &c.Damaged[i]
		if d.TopicID != t.ID {
			continue
		}
		for _, n := range d.Partitions {
			if t.Partition(n) == p && p != nil {
				return true
			}
		}
	}
	return false
}

// relaxed reports whether acknowledgements of a topic do not wait for a flush.
func (m *Image) relaxed(t *Topic, byDefault bool) bool {
	s, ok := m.TopicConfig(t.Name)["flush.messages"]
	if !ok {
		s, ok = m.ClusterConfig()["log.flush.interval.messages"]
	}
	if !ok {
		return byDefault
	}
	n, ok := parseInt(s)
	return !ok || n > 1
}

func (m *Image) addReplica(c *AddReplica, r *Result) {
	next, live := uint64(1), 0
	for _, known := range m.sortedReplicas() {
		next = max(next, known.ID+1)
		if known.Removed {
			continue
		}
		live++
		if known.NodeID != c.NodeID {
			continue
		}
		if known.DirectoryID != c.DirectoryID {
			r.refuse(DirectoryMismatch, "node %d is replica %d with data directory %s: remove it before another one joins", c.NodeID, known.ID, known.DirectoryID)
			return
		}
		r.Value = int64(known.ID)
		if c.Addr != "" && c.Addr != known.Addr {
			n := *known
			n.Addr = c.Addr
			m.putReplica(&n)
		}
		return
	}
	switch {
	case m.ClusterID == "":
		r.refuse(NotFormed, "join after FormCluster")
	case c.NodeID < 0 || c.DirectoryID.IsZero() || len(c.Addr) > maxAddrBytes:
		r.refuse(InvalidCommand, "node %d at %q", c.NodeID, c.Addr)
	case live >= maxLiveReplicas:
		r.refuse(LimitExceeded, "%d raft replicas", live)
	default:
		m.putReplica(&Replica{ID: next, NodeID: c.NodeID, DirectoryID: c.DirectoryID, Addr: c.Addr})
		r.Value = int64(next)
	}
}

func (m *Image) removeReplica(c *RemoveReplica, r *Result) {
	known := m.Replicas[c.ReplicaID]
	if known == nil {
		r.refuse(InvalidCommand, "no replica %d", c.ReplicaID)
		return
	}
	if !known.Removed {
		n := *known
		n.Removed = true
		m.putReplica(&n)
	}
}

func (m *Image) controlledShutdown(c *ControlledShutdown, r *Result) {
	if !m.checkController(c.ControllerEpoch, r) || !m.checkBroker(c.ID, c.BrokerEpoch, r) {
		return
	}
	if m.Brokers[c.ID].ShuttingDown {
		return
	}
	b := *m.Brokers[c.ID]
	b.ShuttingDown = true
	m.putBroker(&b)
	m.changePartitions(func(t *Topic, p *Partition) *Partition { return m.leave(t, p, b.ID) })
}

func (m *Image) drainBroker(c *DrainBroker, r *Result) {
	old := m.Brokers[c.ID]
	if old == nil {
		r.refuse(UnknownBroker, "%d", c.ID)
		return
	}
	if old.Draining != c.Drain {
		b := *old
		b.Draining = c.Drain
		m.putBroker(&b)
	}
}

func (m *Image) claimController(c *ClaimController, r *Result) {
	switch {
	case c.Term < m.Controller.Term:
		r.refuse(StaleControllerEpoch, "node %d leads since term %d, this claim is of %d", m.Controller.NodeID, m.Controller.Term, c.Term)
		return
	case c.Term == m.Controller.Term && c.NodeID == m.Controller.NodeID:
		// Claimed already; the answer was lost.
	default:
		m.Controller = Controller{NodeID: c.NodeID, Epoch: m.Index, Term: c.Term}
	}
	r.Value = int64(m.Controller.Epoch)
}

func (m *Image) reassignPartitions(c *ReassignPartitions, r *Result) {
	r.Items = make([]ItemResult, len(c.Partitions))
	e := topicEdits{m: m, edited: map[UUID]*Topic{}}
	for i := range c.Partitions {
		r.Items[i] = e.reassign(&c.Partitions[i])
	}
	e.publish()
}

func (e *topicEdits) reassign(c *Reassignment) ItemResult {
	m, t := e.m, e.topic(c.TopicID)
	if t == nil {
		return item(UnknownTopic, "id %s", c.TopicID)
	}
	p := t.Partition(c.Partition)
	switch {
	case p == nil:
		return item(UnknownPartition, "%s-%d", t.Name, c.Partition)
	case c.PartitionEpoch >= 0 && c.PartitionEpoch != p.PartitionEpoch:
		return item(InvalidPartitionEpoch, "%s-%d is at %d", t.Name, c.Partition, p.PartitionEpoch)
	case len(c.Replicas) == 0:
		return e.cancelReassignment(t, c.Partition, p)
	case len(c.Replicas) > maxReplicas || !distinct(c.Replicas):
		return item(InvalidReplicaAssignment, "%s-%d: replicas %v", t.Name, c.Partition, c.Replicas)
	}
	for _, id := range c.Replicas {
		if m.Brokers[id] == nil {
			return item(InvalidReplicaAssignment, "%s-%d: broker %d is not registered", t.Name, c.Partition, id)
		}
	}
	n := *p
	original := minus(p.Replicas, p.Adding)
	n.Adding = minus(c.Replicas, original)
	// What was to be added before and is not any more goes at once, unless records depend on it.
	given := minus(p.Adding, c.Replicas)
	given = minus(given, append(slices.Clone(p.ISR), p.ELR...))
	n.Removing = minus(minus(p.Replicas, c.Replicas), given)
	n.Replicas = append(slices.Clone(c.Replicas), n.Removing...)
	if slices.Equal(n.Replicas, p.Replicas) && slices.Equal(n.Adding, p.Adding) && slices.Equal(n.Removing, p.Removing) {
		before := n
		m.settle(t, &n) // a lowered min.insync.replicas may have made it possible
		if n.Reassigning() == before.Reassigning() {
			return ItemResult{}
		}
	}
	n.PartitionEpoch++
	n.lowerELR(m.effectiveMinISR(t, p), m.effectiveMinISR(t, &n))
	m.settle(t, &n)
	e.put(t, c.Partition, &n)
	return ItemResult{}
}

// lowerELR ends all eligibility outside the ISR when the effective min.insync.replicas falls: below the new bound
// records are acknowledged that those replicas lack. Where the ISR is empty nobody acknowledges anything before one of the
// eligible is elected, and that election ends the eligibility of the others.
func (p *Partition) lowerELR(before, now int) {
	if len(p.ISR) > 0 && (now < before || len(p.ISR) >= now) {
		p.ELR = nil
	}
}

func (e *topicEdits) cancelReassignment(t *Topic, partition int32, p *Partition) ItemResult {
	m := e.m
	if !p.Reassigning() {
		return item(NoReassignment, "%s-%d", t.Name, partition)
	}
	n := *p
	n.Replicas, n.ISR, n.ELR = minus(p.Replicas, p.Adding), minus(p.ISR, p.Adding), minus(p.ELR, p.Adding)
	n.Adding, n.Removing = nil, nil
	if len(n.ISR) == 0 && len(p.ISR) > 0 {
		return item(InvalidReplicaAssignment, "%s-%d: only replicas that would go are in sync", t.Name, partition)
	}
	n.PartitionEpoch++
	n.lowerELR(m.effectiveMinISR(t, p), m.effectiveMinISR(t, &n))
	if contains(p.Adding, n.Leader) {
		m.elect(t, &n)
	}
	e.put(t, partition, &n)
	return ItemResult{}
}

// settle ends a reassignment once every replica to be added is in sync and the replicas that stay are enough
// (KIP-966). The caller has raised the partition epoch.
func (m *Image) settle(t *Topic, p *Partition) {
	if !p.Reassigning() {
		return
	}
	for _, id := range p.Adding {
		if !contains(p.ISR, id) {
			return
		}
	}
	n := *p
	n.Replicas, n.ISR, n.ELR = minus(p.Replicas, p.Removing), minus(p.ISR, p.Removing), minus(p.ELR, p.Removing)
	n.Adding, n.Removing = nil, nil
	minISR := m.effectiveMinISR(t, &n)
	if len(n.ISR) < max(1, minISR) {
		return
	}
	n.ELR = nil
	if contains(p.Removing, p.Leader) {
		m.elect(t, &n)
	}
	*p = n
}

// minus returns a without the elements of b, sharing nothing with a.
func minus(a, b []int32) []int32 {
	var out []int32
	for _, id := range a {
		if !contains(b, id) {
			out = append(out, id)
		}
	}
	return out
}
