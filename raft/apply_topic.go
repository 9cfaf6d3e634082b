package raft

import (
	"maps"
	"slices"
)

func (m *Image) createTopics(c *CreateTopics, r *Result) {
	r.Items = make([]ItemResult, len(c.Topics))
	for i := range c.Topics {
		r.Items[i] = m.createTopic(&c.Topics[i])
	}
}

func (m *Image) createTopic(c *NewTopic) ItemResult {
	switch {
	case c.Name == "" || c.ID.IsZero() || len(c.Assignments) == 0:
		return item(InvalidCommand, "topic without name, id or partitions")
	case m.Topic(c.Name) != nil:
		return item(TopicExists, "%s", c.Name)
	case m.TopicByID(c.ID) != nil || m.Deleted(c.ID) != nil:
		return item(TopicExists, "id %s", c.ID)
	case len(c.Name) > maxTopicName:
		return item(LimitExceeded, "topic name of %d bytes", len(c.Name))
	case len(c.Assignments) > maxPartitionsPerTopic || m.partitions+len(c.Assignments) > maxPartitions:
		return item(LimitExceeded, "%d partitions more", len(c.Assignments))
	case configTooLarge(c.Configs):
		return item(LimitExceeded, "configs of topic %s", c.Name)
	}
	t := &Topic{Name: c.Name, ID: c.ID, Internal: c.Internal}
	if res := m.addPartitions(t, c.Assignments); res.Code != OK {
		return res
	}
	m.putTopic(t)
	m.putConfig(ConfigResource{ConfigTopic, c.Name}, maps.Clone(c.Configs))
	return ItemResult{}
}

// addPartitions appends one new partition for each assignment to t, which is not published yet. The
// partitions start with every live replica in sync: all of them are empty.
func (m *Image) addPartitions(t *Topic, assignments [][]int32) ItemResult {
	rf := len(assignments[0])
	if len(t.Partitions) > 0 {
		rf = len(t.Partitions[0].Replicas) - len(t.Partitions[0].Removing) // what it will be
	}
	t.Partitions = slices.Grow(slices.Clip(t.Partitions), len(assignments))
	for i, replicas := range assignments {
		switch {
		case len(replicas) == 0 || len(replicas) > maxReplicas || !distinct(replicas):
			return item(InvalidReplicaAssignment, "partition %d: replicas %v", len(t.Partitions), replicas)
		case len(replicas) != rf:
			return item(InvalidReplicaAssignment, "partition %d has %d replicas, the others %d", len(t.Partitions), len(replicas), rf)
		}
		var isr []int32
		for _, id := range replicas {
			if m.Brokers[id] == nil {
				return item(InvalidReplicaAssignment, "partition %d: broker %d is not registered", len(t.Partitions), id)
			}
			if m.live(id) {
				isr = append(isr, id)
			}
		}
		if len(isr) == 0 {
			return item(InvalidReplicaAssignment, "partition %d: no replica of %v is live", len(t.Partitions), replicas)
		}
		if len(isr) == len(replicas) {
			isr = replicas // both are read-only; most partitions of most clusters look like this
		}
		t.Partitions = append(t.Partitions, &Partition{
			Replicas: assignments[i], ISR: isr, Leader: isr[0], LastLeader: NoLeader,
		})
	}
	return ItemResult{}
}

func (m *Image) deleteTopics(c *DeleteTopics, r *Result) {
	r.Items = make([]ItemResult, len(c.IDs))
	for i, id := range c.IDs {
		t := m.TopicByID(id)
		if t == nil {
			r.Items[i] = item(UnknownTopic, "id %s", id)
			continue
		}
		m.dropTopic(t)
		m.putConfig(ConfigResource{ConfigTopic, t.Name}, nil)
		m.deleted = m.deleted.with(id, &DeletedTopic{ID: id, Name: t.Name, AtMillis: c.NowMillis})
	}
	m.sweepDeleted(c.NowMillis)
}

// sweepDeleted drops old tombstones, at most once an hour of the commands' time.
func (m *Image) sweepDeleted(nowMillis int64) {
	if nowMillis-m.prunedAt < sweepMillis {
		return
	}
	m.prunedAt = nowMillis
	var old []UUID
	m.deleted.each(func(id UUID, d *DeletedTopic) bool {
		if nowMillis-d.AtMillis > tombstoneMillis {
			old = append(old, id)
		}
		return true
	})
	for _, id := range old {
		m.deleted = m.deleted.without(id)
	}
}

func (m *Image) createPartitions(c *CreatePartitions, r *Result) {
	r.Items = make([]ItemResult, len(c.Topics))
	for i := range c.Topics {
		r.Items[i] = m.morePartitions(&c.Topics[i])
	}
}

func (m *Image) morePartitions(c *MorePartitions) ItemResult {
	t := m.TopicByID(c.ID)
	switch {
	case t == nil:
		return item(UnknownTopic, "id %s", c.ID)
	case len(c.Assignments) == 0 || int(c.Count) != len(t.Partitions):
		return item(InvalidPartitions, "topic %s has %d partitions, not %d", t.Name, len(t.Partitions), c.Count)
	case len(t.Partitions)+len(c.Assignments) > maxPartitionsPerTopic || m.partitions+len(c.Assignments) > maxPartitions:
		return item(LimitExceeded, "%d partitions more", len(c.Assignments))
	}
	n := *t
	if res := m.addPartitions(&n, c.Assignments); res.Code != OK {
		return res
	}
	m.putTopic(&n)
	return ItemResult{}
}

func (m *Image) alterConfigs(c *AlterConfigs, r *Result) {
	r.Items = make([]ItemResult, len(c.Resources))
	for i := range c.Resources {
		r.Items[i] = m.alterConfig(&c.Resources[i])
	}
}

func (m *Image) alterConfig(c *ConfigChange) ItemResult {
	old := m.Config(c.Resource)
	if c.Resource.Type == ConfigTopic && m.Topic(c.Resource.Name) == nil {
		return item(UnknownTopic, "%s", c.Resource.Name)
	}
	if len(c.Resource.Name) > maxHostBytes {
		return item(LimitExceeded, "resource name of %d bytes", len(c.Resource.Name))
	}
	for _, k := range sortedKeys(c.Expect) {
		if v, ok := old[k]; !ok || v != c.Expect[k] {
			return item(ConfigMismatch, "%s", k)
		}
	}
	for _, k := range c.ExpectAbsent {
		if _, ok := old[k]; ok {
			return item(ConfigMismatch, "%s", k)
		}
	}
	now := map[string]string{}
	if !c.Replace {
		maps.Copy(now, old)
	}
	for _, k := range c.Delete {
		delete(now, k)
	}
	maps.Copy(now, c.Set)
	if configTooLarge(now) || old == nil && m.configs.len >= maxConfigResources {
		return item(LimitExceeded, "configs of %s", c.Resource.Name)
	}
	before := *m
	m.putConfig(c.Resource, now)
	m.clearELR(&before, c.Resource)
	return ItemResult{}
}

// clearELR ends the eligibility of replicas outside the ISR wherever a config change lowered the
// effective min.insync.replicas: below the new bound records are acknowledged that they lack. See Partition.lowerELR.
func (m *Image) clearELR(before *Image, changed ConfigResource) {
	lower := func(t *Topic, p *Partition) *Partition {
		if len(p.ELR) == 0 || len(p.ISR) == 0 || m.effectiveMinISR(t, p) >= before.effectiveMinISR(t, p) {
			return p
		}
		n := *p
		n.ELR = nil
		n.PartitionEpoch++
		return &n
	}
	switch {
	case changed.Type == ConfigTopic:
		t := m.Topic(changed.Name)
		if n := t.changePartitions(lower); n != t {
			m.putTopic(n)
		}
	case changed == (ConfigResource{Type: ConfigBroker}):
		m.changePartitions(lower)
	}
}

func configTooLarge(c map[string]string) bool {
	size := 0
	for k, v := range c {
		size += len(k) + len(v)
	}
	return len(c) > maxConfigKeys || size > maxConfigBytes
}
