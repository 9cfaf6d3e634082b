package raft

// The commands of level 2: what a cluster of more than one node agrees on beyond a broker alone.

// RegisterBrokerV2 is RegisterBroker for brokers with a cluster port. After an unclean stop it also says what may be
// lost: the broker leaves ISR and ELR of those partitions in the same command.
type RegisterBrokerV2 struct {
	RegisterBroker
	Addr      string // of the cluster port
	Listeners []Listener
	// PowerLost: the last stop was unclean and another boot began since. What was handed to the kernel and not flushed
	// is gone, so no topic whose acknowledgements did not wait for a flush (flush.messages > 1) may trust this broker.
	PowerLost bool
	// RelaxedByDefault: topics without a flush.messages of their own are such topics on this broker.
	RelaxedByDefault bool
	// Damaged are partitions whose log was found damaged.
	Damaged []TopicPartitions
}

// TopicPartitions are partitions of one topic.
type TopicPartitions struct {
	TopicID    UUID
	Partitions []int32
}

// AddReplica admits a node to the raft group's state and gives it a replica id that was never used: Value. The
// membership change itself follows. Asking again with the same directory answers the same id.
type AddReplica struct {
	NodeID      int32
	DirectoryID UUID
	Addr        string
}

// RemoveReplica bars a raft replica for good. Its node may be admitted again under a new one.
type RemoveReplica struct{ ReplicaID uint64 }

// ControlledShutdown moves every leadership and ISR membership from a broker that is about to stop. What only it
// holds has no leader from then on.
type ControlledShutdown struct {
	ID              int32
	BrokerEpoch     int64
	ControllerEpoch uint64
}

// DrainBroker marks a broker that is to lead nothing and then hold nothing, or takes the mark away.
type DrainBroker struct {
	ID    int32
	Drain bool
}

// ReassignPartitions changes who holds partitions, one Item each.
type ReassignPartitions struct{ Partitions []Reassignment }

// Reassignment is one element of ReassignPartitions. The partition holds the old and the new replicas until the new
// ones are in sync.
type Reassignment struct {
	TopicID   UUID
	Partition int32
	// Replicas is the target, in order of preference; empty cancels what is under way.
	Replicas []int32
	// PartitionEpoch is what the proposer saw; -1 is whatever there is.
	PartitionEpoch int32
}

// AlterPartitionsV2 is AlterPartitions with the end of a recovery.
type AlterPartitionsV2 struct {
	BrokerID    int32
	BrokerEpoch int64
	Partitions  []ISRChangeV2
}

// ISRChangeV2 is one element of AlterPartitionsV2.
type ISRChangeV2 struct {
	ISRChange
	// Recovered: the leader of an unclean election is done, others may join.
	Recovered bool
}

// ClaimController is BecomeController with the raft term of the leader that claims: an older leader's claim that
// arrives late is refused. Value is the controller epoch.
type ClaimController struct {
	NodeID int32
	Term   uint64
}

func (RegisterBrokerV2) kind() kind   { return kindRegisterBrokerV2 }
func (AddReplica) kind() kind         { return kindAddReplica }
func (RemoveReplica) kind() kind      { return kindRemoveReplica }
func (ControlledShutdown) kind() kind { return kindControlledShutdown }
func (DrainBroker) kind() kind        { return kindDrainBroker }
func (ReassignPartitions) kind() kind { return kindReassignPartitions }
func (AlterPartitionsV2) kind() kind  { return kindAlterPartitionsV2 }
func (ClaimController) kind() kind    { return kindClaimController }

func encodeListener(e *encoder, l *Listener) {
	e.string(l.Name)
	e.string(l.Host)
	e.int32(l.Port)
}

func decodeListener(d *decoder, l *Listener) {
	l.Name = d.string()
	l.Host = d.string()
	l.Port = d.int32()
}

func (c RegisterBrokerV2) encode(e *encoder) {
	c.RegisterBroker.encode(e)
	e.string(c.Addr)
	list(e, c.Listeners, encodeListener)
	e.bool(c.PowerLost)
	e.bool(c.RelaxedByDefault)
	list(e, c.Damaged, func(e *encoder, t *TopicPartitions) {
		e.uuid(t.TopicID)
		e.int32s(t.Partitions)
	})
}

func (c *RegisterBrokerV2) decode(d *decoder) {
	c.RegisterBroker.decode(d)
	c.Addr = d.string()
	c.Listeners = unlist(d, 3, decodeListener)
	c.PowerLost = d.bool()
	c.RelaxedByDefault = d.bool()
	c.Damaged = unlist(d, 17, func(d *decoder, t *TopicPartitions) {
		t.TopicID = d.uuid()
		t.Partitions = d.int32s()
	})
}

func (c AddReplica) encode(e *encoder) {
	e.int32(c.NodeID)
	e.uuid(c.DirectoryID)
	e.string(c.Addr)
}

func (c *AddReplica) decode(d *decoder) {
	c.NodeID = d.int32()
	c.DirectoryID = d.uuid()
	c.Addr = d.string()
}

func (c RemoveReplica) encode(e *encoder)  { e.uint(c.ReplicaID) }
func (c *RemoveReplica) decode(d *decoder) { c.ReplicaID = d.uint() }

func (c ControlledShutdown) encode(e *encoder) {
	e.int32(c.ID)
	e.int(c.BrokerEpoch)
	e.uint(c.ControllerEpoch)
}

func (c *ControlledShutdown) decode(d *decoder) {
	c.ID = d.int32()
	c.BrokerEpoch = d.int()
	c.ControllerEpoch = d.uint()
}

func (c DrainBroker) encode(e *encoder) {
	e.int32(c.ID)
	e.bool(c.Drain)
}

func (c *DrainBroker) decode(d *decoder) {
	c.ID = d.int32()
	c.Drain = d.bool()
}

func (c ReassignPartitions) encode(e *encoder) {
	list(e, c.Partitions, func(e *encoder, p *Reassignment) {
		e.uuid(p.TopicID)
		e.int32(p.Partition)
		e.int32s(p.Replicas)
		e.int32(p.PartitionEpoch)
	})
}

func (c *ReassignPartitions) decode(d *decoder) {
	c.Partitions = unlist(d, 19, func(d *decoder, p *Reassignment) {
		p.TopicID = d.uuid()
		p.Partition = d.int32()
		p.Replicas = d.int32s()
		p.PartitionEpoch = d.int32()
	})
}

func (c AlterPartitionsV2) encode(e *encoder) {
	e.int32(c.BrokerID)
	e.int(c.BrokerEpoch)
	list(e, c.Partitions, func(e *encoder, p *ISRChangeV2) {
		encodeISRChange(e, &p.ISRChange)
		e.bool(p.Recovered)
	})
}

func (c *AlterPartitionsV2) decode(d *decoder) {
	c.BrokerID = d.int32()
	c.BrokerEpoch = d.int()
	c.Partitions = unlist(d, 21, func(d *decoder, p *ISRChangeV2) {
		decodeISRChange(d, &p.ISRChange)
		p.Recovered = d.bool()
	})
}

func (c ClaimController) encode(e *encoder) {
	e.int32(c.NodeID)
	e.uint(c.Term)
}

func (c *ClaimController) decode(d *decoder) {
	c.NodeID = d.int32()
	c.Term = d.uint()
}
