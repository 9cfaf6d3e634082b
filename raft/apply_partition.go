package raft

func (m *Image) alterPartitions(c *AlterPartitions, r *Result) {
	if !m.checkBroker(c.BrokerID, c.BrokerEpoch, r) {
		return
	}
	r.Items = make([]ItemResult, len(c.Partitions))
	e := topicEdits{m: m, edited: map[UUID]*Topic{}}
	for i := range c.Partitions {
		r.Items[i] = e.alterISR(c.BrokerID, &c.Partitions[i], false)
	}
	e.publish()
}

func (m *Image) alterPartitionsV2(c *AlterPartitionsV2, r *Result) {
	if !m.checkBroker(c.BrokerID, c.BrokerEpoch, r) {
		return
	}
	r.Items = make([]ItemResult, len(c.Partitions))
	e := topicEdits{m: m, edited: map[UUID]*Topic{}}
	for i := range c.Partitions {
		r.Items[i] = e.alterISR(c.BrokerID, &c.Partitions[i].ISRChange, c.Partitions[i].Recovered)
	}
	e.publish()
}

// topicEdits collects one command's changes of partitions, so that a topic's partition slice is
// copied once a command however many of its partitions change.
type topicEdits struct {
	m      *Image
	edited map[UUID]*Topic // private copies
}

// topic returns the topic as the command has left it so far.
func (e *topicEdits) topic(id UUID) *Topic {
	if t := e.edited[id]; t != nil {
		return t
	}
	return e.m.TopicByID(id)
}

func (e *topicEdits) put(t *Topic, partition int32, p *Partition) {
	if e.edited[t.ID] == nil {
		t = t.withPartitions()
		e.edited[t.ID] = t
	}
	t.Partitions[partition] = p
}

// publish may go through the map in any order: the tries that result are the same.
func (e *topicEdits) publish() {
	for _, t := range e.edited {
		e.m.putTopic(t)
	}
}

// alterISR applies the checks of Kafka's ReplicationControlManager in its order (KIP-497, 841, 903).
func (e *topicEdits) alterISR(leader int32, c *ISRChange, recovered bool) ItemResult {
	m, t := e.m, e.topic(c.TopicID)
	if t == nil {
		return item(UnknownTopic, "id %s", c.TopicID)
	}
	p := t.Partition(c.Partition)
	switch {
	case p == nil:
		return item(UnknownPartition, "%s-%d", t.Name, c.Partition)
	case c.LeaderEpoch > p.LeaderEpoch || c.PartitionEpoch > p.PartitionEpoch:
		return item(NewerEpoch, "%s-%d is at (%d, %d)", t.Name, c.Partition, p.LeaderEpoch, p.PartitionEpoch)
	case c.LeaderEpoch < p.LeaderEpoch:
		return item(FencedLeaderEpoch, "%s-%d is at %d", t.Name, c.Partition, p.LeaderEpoch)
	case p.Leader != leader:
		return item(NotLeader, "%s-%d is led by %d", t.Name, c.Partition, p.Leader)
	case c.PartitionEpoch < p.PartitionEpoch:
		return item(InvalidPartitionEpoch, "%s-%d is at %d", t.Name, c.Partition, p.PartitionEpoch)
	}
	isr := make([]int32, 0, len(c.ISR))
	for _, member := range c.ISR {
		if !contains(p.Replicas, member.ID) || contains(isr, member.ID) {
			return item(InvalidCommand, "%s-%d: isr member %d is doubled or no replica", t.Name, c.Partition, member.ID)
		}
		if !m.live(member.ID) || m.Brokers[member.ID].Epoch != member.BrokerEpoch {
			return item(IneligibleReplica, "%s-%d: broker %d", t.Name, c.Partition, member.ID)
		}
		isr = append(isr, member.ID)
	}
	if !contains(isr, leader) {
		return item(InvalidCommand, "%s-%d: isr without its leader", t.Name, c.Partition)
	}
	if p.Recovering && !recovered && len(isr) > 1 {
		return item(IneligibleReplica, "%s-%d: its leader recovers and stays alone", t.Name, c.Partition)
	}
	n := *p
	n.setISR(isr, m.effectiveMinISR(t, p))
	n.Recovering = p.Recovering && !recovered
	n.PartitionEpoch++
	m.settle(t, &n)
	e.put(t, c.Partition, &n)
	return ItemResult{}
}

func (m *Image) electLeaders(c *ElectLeaders, r *Result) {
	if !m.checkController(c.ControllerEpoch, r) {
		return
	}
	r.Items = make([]ItemResult, len(c.Partitions))
	e := topicEdits{m: m, edited: map[UUID]*Topic{}}
	for i := range c.Partitions {
		r.Items[i] = e.electLeader(&c.Partitions[i])
	}
	e.publish()
}

func (e *topicEdits) electLeader(c *Election) ItemResult {
	m, t := e.m, e.topic(c.TopicID)
	if t == nil {
		return item(UnknownTopic, "id %s", c.TopicID)
	}
	p := t.Partition(c.Partition)
	switch {
	case p == nil:
		return item(UnknownPartition, "%s-%d", t.Name, c.Partition)
	case c.PartitionEpoch != p.PartitionEpoch:
		return item(InvalidPartitionEpoch, "%s-%d is at %d", t.Name, c.Partition, p.PartitionEpoch)
	case p.Leader != NoLeader && p.Leader == c.Leader:
		return item(ElectionNotNeeded, "%s-%d is led by %d", t.Name, c.Partition, p.Leader)
	}
	n := *p
	n.PartitionEpoch++
	clean := func(id int32) bool { return m.live(id) && (c.Leader == NoBroker || id == c.Leader) }
	n.elect(m.effectiveMinISR(t, p), clean, func(id int32) bool { return clean(id) && m.willing(id) })
	unclean := n.Leader == NoLeader && c.Unclean
	if unclean {
		n.electUnclean(clean)
	}
	switch n.Leader {
	case NoLeader:
		return item(EligibleLeaderMissing, "%s-%d", t.Name, c.Partition)
	case p.Leader:
		return item(ElectionNotNeeded, "%s-%d is led by %d", t.Name, c.Partition, p.Leader)
	}
	n.LeaderEpoch = p.LeaderEpoch + 1 // one election, however many attempts
	if unclean && m.Level >= clusterLevel {
		n.UncleanEpoch, n.Recovering = n.LeaderEpoch, true
	}
	e.put(t, c.Partition, &n)
	return ItemResult{}
}

// electUnclean admits any live replica; whoever led last comes first, because it knows the most.
// Its log becomes the truth: nobody else is in sync or eligible any more.
func (p *Partition) electUnclean(live func(int32) bool) {
	order := p.Replicas
	if contains(order, p.LastLeader) {
		order = append([]int32{p.LastLeader}, order...)
	}
	for _, id := range order {
		if live(id) {
			p.lead(id, 1)
			p.ISR, p.ELR = []int32{id}, nil
			return
		}
	}
}
