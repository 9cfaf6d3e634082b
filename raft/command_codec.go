package raft

// The bodies of the commands, field by field in the order of their structs. A body never changes:
// a new field is a new kind at a new level.

func (FormCluster) kind() kind         { return kindFormCluster }
func (RegisterBroker) kind() kind      { return kindRegisterBroker }
func (FenceBroker) kind() kind         { return kindFenceBroker }
func (UnfenceBroker) kind() kind       { return kindUnfenceBroker }
func (UnregisterBroker) kind() kind    { return kindUnregisterBroker }
func (CreateTopics) kind() kind        { return kindCreateTopics }
func (DeleteTopics) kind() kind        { return kindDeleteTopics }
func (CreatePartitions) kind() kind    { return kindCreatePartitions }
func (AlterConfigs) kind() kind        { return kindAlterConfigs }
func (AllocateProducerIDs) kind() kind { return kindAllocateProducerIDs }
func (AlterPartitions) kind() kind     { return kindAlterPartitions }
func (ElectLeaders) kind() kind        { return kindElectLeaders }
func (BecomeController) kind() kind    { return kindBecomeController }
func (FinalizeLevel) kind() kind       { return kindFinalizeLevel }

func (c FormCluster) encode(e *encoder) {
	e.string(c.ClusterID)
	e.uint(uint64(c.Level))
	list(e, c.Replicas, encodeReplica)
	e.int32s(c.Brokers)
}

func (c *FormCluster) decode(d *decoder) {
	c.ClusterID = d.string()
	c.Level = d.uint16()
	c.Replicas = unlist(d, 18, decodeReplica)
	c.Brokers = d.int32s()
}

func encodeReplica(e *encoder, r *Replica) {
	e.uint(r.ID)
	e.int32(r.NodeID)
	e.uuid(r.DirectoryID)
}

func decodeReplica(d *decoder, r *Replica) {
	r.ID = d.uint()
	r.NodeID = d.int32()
	r.DirectoryID = d.uuid()
}

func (c RegisterBroker) encode(e *encoder) {
	e.int32(c.ID)
	e.uint(c.ReplicaID)
	e.uuid(c.DirectoryID)
	e.uuid(c.IncarnationID)
	e.string(c.Host)
	e.int32(c.Port)
	e.string(c.Rack)
	e.uint(uint64(c.MaxLevel))
	e.bool(c.Fenced)
	e.bool(c.ReplaceDirectory)
}

func (c *RegisterBroker) decode(d *decoder) {
	c.ID = d.int32()
	c.ReplicaID = d.uint()
	c.DirectoryID = d.uuid()
	c.IncarnationID = d.uuid()
	c.Host = d.string()
	c.Port = d.int32()
	c.Rack = d.string()
	c.MaxLevel = d.uint16()
	c.Fenced = d.bool()
	c.ReplaceDirectory = d.bool()
}

func (c FenceBroker) encode(e *encoder) {
	e.int32(c.ID)
	e.int(c.BrokerEpoch)
	e.uint(c.ControllerEpoch)
}

func (c *FenceBroker) decode(d *decoder) {
	c.ID = d.int32()
	c.BrokerEpoch = d.int()
	c.ControllerEpoch = d.uint()
}

func (c UnfenceBroker) encode(e *encoder) {
	e.int32(c.ID)
	e.int(c.BrokerEpoch)
	e.uint(c.ControllerEpoch)
}

func (c *UnfenceBroker) decode(d *decoder) {
	c.ID = d.int32()
	c.BrokerEpoch = d.int()
	c.ControllerEpoch = d.uint()
}

func (c UnregisterBroker) encode(e *encoder) {
	e.int32(c.ID)
	e.int(c.BrokerEpoch)
}

func (c *UnregisterBroker) decode(d *decoder) {
	c.ID = d.int32()
	c.BrokerEpoch = d.int()
}

func encodeAssignment(e *encoder, replicas *[]int32) { e.int32s(*replicas) }
func decodeAssignment(d *decoder, replicas *[]int32) { *replicas = d.int32s() }

func (c CreateTopics) encode(e *encoder) {
	list(e, c.Topics, func(e *encoder, t *NewTopic) {
		e.string(t.Name)
		e.uuid(t.ID)
		e.bool(t.Internal)
		list(e, t.Assignments, encodeAssignment)
		e.stringMap(t.Configs)
	})
}

func (c *CreateTopics) decode(d *decoder) {
	c.Topics = unlist(d, 20, func(d *decoder, t *NewTopic) {
		t.Name = d.string()
		t.ID = d.uuid()
		t.Internal = d.bool()
		t.Assignments = unlist(d, 1, decodeAssignment)
		t.Configs = d.stringMap()
	})
}

func (c DeleteTopics) encode(e *encoder) {
	list(e, c.IDs, func(e *encoder, id *UUID) { e.uuid(*id) })
	e.int(c.NowMillis)
}

func (c *DeleteTopics) decode(d *decoder) {
	c.IDs = unlist(d, 16, func(d *decoder, id *UUID) { *id = d.uuid() })
	c.NowMillis = d.int()
}

func (c CreatePartitions) encode(e *encoder) {
	list(e, c.Topics, func(e *encoder, t *MorePartitions) {
		e.uuid(t.ID)
		e.int32(t.Count)
		list(e, t.Assignments, encodeAssignment)
	})
}

func (c *CreatePartitions) decode(d *decoder) {
	c.Topics = unlist(d, 18, func(d *decoder, t *MorePartitions) {
		t.ID = d.uuid()
		t.Count = d.int32()
		t.Assignments = unlist(d, 1, decodeAssignment)
	})
}

func encodeResource(e *encoder, r ConfigResource) {
	e.byte(byte(r.Type))
	e.string(r.Name)
}

func decodeResource(d *decoder) ConfigResource {
	return ConfigResource{Type: ConfigType(d.byte()), Name: d.string()}
}

func (c AlterConfigs) encode(e *encoder) {
	list(e, c.Resources, func(e *encoder, r *ConfigChange) {
		encodeResource(e, r.Resource)
		e.bool(r.Replace)
		e.stringMap(r.Set)
		e.strings(r.Delete)
		e.stringMap(r.Expect)
		e.strings(r.ExpectAbsent)
	})
}

func (c *AlterConfigs) decode(d *decoder) {
	c.Resources = unlist(d, 7, func(d *decoder, r *ConfigChange) {
		r.Resource = decodeResource(d)
		r.Replace = d.bool()
		r.Set = d.stringMap()
		r.Delete = d.strings()
		r.Expect = d.stringMap()
		r.ExpectAbsent = d.strings()
	})
}

func (c AllocateProducerIDs) encode(e *encoder) {
	e.int32(c.BrokerID)
	e.int(c.BrokerEpoch)
	e.int32(c.Count)
}

func (c *AllocateProducerIDs) decode(d *decoder) {
	c.BrokerID = d.int32()
	c.BrokerEpoch = d.int()
	c.Count = d.int32()
}

func (c AlterPartitions) encode(e *encoder) {
	e.int32(c.BrokerID)
	e.int(c.BrokerEpoch)
	list(e, c.Partitions, encodeISRChange)
}

func (c *AlterPartitions) decode(d *decoder) {
	c.BrokerID = d.int32()
	c.BrokerEpoch = d.int()
	c.Partitions = unlist(d, 20, decodeISRChange)
}

func encodeISRChange(e *encoder, p *ISRChange) {
	e.uuid(p.TopicID)
	e.int32(p.Partition)
	e.int32(p.LeaderEpoch)
	e.int32(p.PartitionEpoch)
	list(e, p.ISR, func(e *encoder, m *ISRMember) {
		e.int32(m.ID)
		e.int(m.BrokerEpoch)
	})
}

func decodeISRChange(d *decoder, p *ISRChange) {
	p.TopicID = d.uuid()
	p.Partition = d.int32()
	p.LeaderEpoch = d.int32()
	p.PartitionEpoch = d.int32()
	p.ISR = unlist(d, 2, func(d *decoder, m *ISRMember) {
		m.ID = d.int32()
		m.BrokerEpoch = d.int()
	})
}

func (c ElectLeaders) encode(e *encoder) {
	e.uint(c.ControllerEpoch)
	list(e, c.Partitions, func(e *encoder, p *Election) {
		e.uuid(p.TopicID)
		e.int32(p.Partition)
		e.int32(p.PartitionEpoch)
		e.int32(p.Leader)
		e.bool(p.Unclean)
	})
}

func (c *ElectLeaders) decode(d *decoder) {
	c.ControllerEpoch = d.uint()
	c.Partitions = unlist(d, 20, func(d *decoder, p *Election) {
		p.TopicID = d.uuid()
		p.Partition = d.int32()
		p.PartitionEpoch = d.int32()
		p.Leader = d.int32()
		p.Unclean = d.bool()
	})
}

func (c BecomeController) encode(e *encoder)  { e.int32(c.NodeID) }
func (c *BecomeController) decode(d *decoder) { c.NodeID = d.int32() }

func (c FinalizeLevel) encode(e *encoder)  { e.uint(uint64(c.Level)) }
func (c *FinalizeLevel) decode(d *decoder) { c.Level = d.uint16() }
