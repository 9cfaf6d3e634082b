package raft

import (
	"maps"

	"millrace/raft/broken"
)

func (m *Image) registerBroker(c *RegisterBroker, r *Result) { m.register(c, nil, r) }

// register executes both versions of the command; x is nil for the first one.
func (m *Image) register(c *RegisterBroker, x *RegisterBrokerV2, r *Result) {
	old := m.Brokers[c.ID]
	switch {
	case m.ClusterID == "":
		r.refuse(NotFormed, "register after FormCluster")
		return
	case c.ID < 0 || c.DirectoryID.IsZero() || c.IncarnationID.IsZero() || c.Host == "" || c.Port < 0 || c.Port > 65535:
		r.refuse(InvalidCommand, "broker %d at %q:%d", c.ID, c.Host, c.Port)
		return
	case len(c.Host) > maxHostBytes || len(c.Rack) > maxHostBytes || old == nil && len(m.Brokers) >= maxBrokers:
		r.refuse(LimitExceeded, "%d brokers", len(m.Brokers))
		return
	case c.MaxLevel < m.Level:
		r.refuse(LevelNotSupported, "broker %d supports level %d, finalised is %d", c.ID, c.MaxLevel, m.Level)
		return
	case !m.checkReplica(c, r):
		return
	}
	moved := !broken.NoDirectoryID && old != nil && !old.DirectoryID.IsZero() && old.DirectoryID != c.DirectoryID
	if moved && !c.ReplaceDirectory && !m.admitted(c) {
		r.refuse(DirectoryMismatch, "broker %d has data directory %s, not %s", c.ID, old.DirectoryID, c.DirectoryID)
		return
	}
	if old != nil && old.IncarnationID == c.IncarnationID {
		r.Value = old.Epoch // the answer to the first try was lost
		return
	}
	b := &Broker{
		ID: c.ID, Epoch: int64(m.Index), DirectoryID: c.DirectoryID, IncarnationID: c.IncarnationID,
		Host: c.Host, Port: c.Port, Rack: c.Rack, Fenced: c.Fenced, MaxLevel: c.MaxLevel,
	}
	addr := ""
	if x != nil {
		b.Listeners, addr = x.Listeners, x.Addr
		b.Draining = old != nil && old.Draining
	}
	m.putBroker(b)
	m.bindReplica(c, addr)
	r.Value = b.Epoch
	m.changePartitions(func(t *Topic, p *Partition) *Partition {
		n := p
		if broken.ResumeOwnEpoch && p.Leader == b.ID {
			return p
		}
		if moved || x != nil && x.lost(m, t, p) {
			n = m.forget(t, n, b.ID)
		}
		if b.Fenced {
			n = m.leave(t, n, b.ID)
		} else {
			n = m.begin(t, n, b.ID)
		}
		return n
	})
}

// checkReplica refuses a known raft replica with another data directory: it has lost its votes and its
// log, and would let two leaders be elected in one term.
func (m *Image) checkReplica(c *RegisterBroker, r *Result) bool {
	known := m.Replicas[c.ReplicaID]
	switch {
	case c.ReplicaID == 0 || known == nil:
	case known.Removed:
		r.refuse(ReplicaRemoved, "%d", c.ReplicaID)
		return false
	case known.NodeID != c.ID:
		r.refuse(DirectoryMismatch, "replica %d belongs to broker %d", c.ReplicaID, known.NodeID)
		return false
	case !known.DirectoryID.IsZero() && known.DirectoryID != c.DirectoryID:
		r.refuse(DirectoryMismatch, "replica %d has data directory %s, not %s", c.ReplicaID, known.DirectoryID, c.DirectoryID)
		return false
	}
	return true
}

// bindReplica ties an announced or new raft replica to its data directory, and keeps its address.
func (m *Image) bindReplica(c *RegisterBroker, addr string) {
	if c.ReplicaID == 0 {
		return
	}
	n := Replica{ID: c.ReplicaID, NodeID: c.ID, DirectoryID: c.DirectoryID}
	if known := m.Replicas[c.ReplicaID]; known != nil {
		n = *known
		if known.DirectoryID.IsZero() {
			n.DirectoryID = c.DirectoryID
		}
	}
	if addr != "" {
		n.Addr = addr
	}
	m.putReplica(&n)
}

func (m *Image) putReplica(r *Replica) {
	m.Replicas = maps.Clone(m.Replicas)
	m.Replicas[r.ID] = r
}

func (m *Image) fenceBroker(c *FenceBroker, r *Result) {
	if !m.checkController(c.ControllerEpoch, r) || !m.checkBroker(c.ID, c.BrokerEpoch, r) {
		return
	}
	if m.Brokers[c.ID].Fenced {
		return
	}
	b := *m.Brokers[c.ID]
	b.Fenced = true
	m.putBroker(&b)
	m.changePartitions(func(t *Topic, p *Partition) *Partition { return m.leave(t, p, b.ID) })
}

func (m *Image) unfenceBroker(c *UnfenceBroker, r *Result) {
	if !m.checkController(c.ControllerEpoch, r) || !m.checkBroker(c.ID, c.BrokerEpoch, r) {
		return
	}
	if m.Brokers[c.ID].ShuttingDown {
		r.refuse(InvalidCommand, "broker %d is shutting down", c.ID)
		return
	}
	if !m.Brokers[c.ID].Fenced {
		return
	}
	b := *m.Brokers[c.ID]
	b.Fenced = false
	m.putBroker(&b)
	m.changePartitions(func(t *Topic, p *Partition) *Partition {
		if p.Leader == NoLeader {
			return m.begin(t, p, b.ID)
		}
		return p
	})
}

func (m *Image) unregisterBroker(c *UnregisterBroker, r *Result) {
	if !m.checkBroker(c.ID, c.BrokerEpoch, r) {
		return
	}
	if !m.Brokers[c.ID].Fenced {
		r.refuse(InvalidCommand, "broker %d is not fenced", c.ID)
		return
	}
	for _, rep := range m.sortedReplicas() {
		if m.Level >= clusterLevel && rep.NodeID == c.ID && !rep.Removed {
			r.refuse(InvalidCommand, "broker %d is raft replica %d", c.ID, rep.ID)
			return
		}
	}
	held := ""
	m.EachTopic(func(t *Topic) bool {
		for _, p := range t.Partitions {
			if contains(p.Replicas, c.ID) {
				held = t.Name
				return false
			}
		}
		return true
	})
	if held != "" {
		r.refuse(InvalidCommand, "broker %d holds replicas", c.ID)
		return
	}
	m.Brokers = maps.Clone(m.Brokers)
	delete(m.Brokers, c.ID)
}

// changePartitions replaces every partition for which f returns another one than it was given.
func (m *Image) changePartitions(f func(*Topic, *Partition) *Partition) {
	changed := map[UUID]*Topic{}
	m.topics = m.topics.update(func(_ string, t *Topic) (*Topic, bool) {
		n := t.changePartitions(f)
		if n == t {
			return t, false
		}
		changed[t.ID] = n
		return n, true
	})
	if len(changed) == 0 {
		return
	}
	m.topicsByID = m.topicsByID.update(func(id UUID, t *Topic) (*Topic, bool) {
		n, ok := changed[id]
		if !ok {
			return t, false
		}
		return n, true
	})
}

func (t *Topic) changePartitions(f func(*Topic, *Partition) *Partition) *Topic {
	n := t
	for i, p := range t.Partitions {
		c := f(t, p)
		if c == p {
			continue
		}
		if n == t {
			n = t.withPartitions()
		}
		n.Partitions[i] = c
	}
	return n
}

// begin lets a live broker lead where it leads already, in a new epoch, or where nobody does and
// it may be elected.
func (m *Image) begin(t *Topic, p *Partition, id int32) *Partition {
	switch {
	case p.Leader == id:
		n := *p
		n.LeaderEpoch++
		n.PartitionEpoch++
		return &n
	case p.Leader == NoLeader && (contains(p.ISR, id) || contains(p.ELR, id)):
		n := *p
		n.PartitionEpoch++
		n.lead(id, m.effectiveMinISR(t, p))
		return &n
	default:
		return p
	}
}

// leave takes a broker out of the ISR and from leadership. It stays eligible (ELR) while the ISR is
// below min.insync.replicas: then nothing was acknowledged that it does not have.
func (m *Image) leave(t *Topic, p *Partition, id int32) *Partition {
	if p.Leader != id && !contains(p.ISR, id) {
		return p
	}
	n := *p
	n.setISR(without(p.ISR, id), m.effectiveMinISR(t, p))
	n.PartitionEpoch++
	if p.Leader == id {
		m.elect(t, &n)
	}
	return &n
}

// forget takes a broker that lost its data out of ISR and ELR.
func (m *Image) forget(t *Topic, p *Partition, id int32) *Partition {
	if p.Leader != id && !contains(p.ISR, id) && !contains(p.ELR, id) {
		return p
	}
	n := *p
	n.ISR, n.ELR = without(p.ISR, id), without(p.ELR, id)
	n.PartitionEpoch++
	if p.Leader == id {
		m.elect(t, &n)
	}
	return &n
}

// setISR replaces the ISR and keeps the ELR as KIP-966 has it: who leaves an ISR that is or falls
// below min.insync.replicas stays eligible; an ISR that reaches it ends all eligibility outside.
func (p *Partition) setISR(isr []int32, minISR int) {
	if len(isr) >= minISR {
		var elr []int32
		if broken.StaleELR {
			elr = minus(p.ISR, isr)
		}
		p.ISR, p.ELR = isr, elr
		return
	}
	var elr []int32
	for _, ids := range [][]int32{p.ELR, p.ISR} {
		for _, id := range ids {
			if !contains(isr, id) && !contains(elr, id) {
				elr = append(elr, id)
			}
		}
	}
	p.ISR, p.ELR = isr, elr
}

// elect chooses a leader from the ISR, else from the ELR, in order of preference. Who is to be drained comes after
// everybody else.
func (m *Image) elect(t *Topic, p *Partition) { p.elect(m.effectiveMinISR(t, p), m.live, m.willing) }

func (p *Partition) elect(minISR int, may ...func(int32) bool) {
	// The ISR goes before the ELR whoever is drained: an election from the ELR shrinks the ISR to one.
	for _, ids := range [][]int32{p.ISR, p.ELR} {
		for i := len(may) - 1; i >= 0; i-- { // the narrowest wish first
			for _, id := range p.Replicas {
				if contains(ids, id) && may[i](id) {
					p.lead(id, minISR)
					return
				}
			}
		}
	}
	p.lead(NoLeader, minISR)
}

// lead makes id the leader in a new epoch. One elected from the ELR is the whole ISR: it has all
// that was acknowledged, the others have to prove it. Where it is enough alone nobody else stays eligible.
func (p *Partition) lead(id int32, minISR int) {
	if p.Leader != NoLeader {
		p.LastLeader = p.Leader
	}
	p.Leader = id
	p.LeaderEpoch++
	if id != NoLeader && !contains(p.ISR, id) {
		p.ISR, p.ELR = []int32{id}, without(p.ELR, id)
		if minISR <= 1 {
			p.ELR = nil
		}
	}
}
