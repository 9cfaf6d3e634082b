package raft

import (
	"errors"
	"fmt"
)

// MaxCommandBytes bounds one encoded command. A larger change is several commands.
const MaxCommandBytes = 1 << 20

// Errors of a command's bytes.
var (
	ErrCommandTooLarge = errors.New("raft: command is larger than 1 MiB")
	// ErrUnknownCommand is a command of a newer version. Met in the log at or below the finalised
	// level it stops the replica; above it, it is rejected like on every other replica.
	ErrUnknownCommand = errors.New("raft: unknown kind of command")
)

// codecVersion is the first byte of every command. It changes only if the envelope does.
const codecVersion = 1

// A Command changes the image. Commands are compare-and-set: repeated after a timeout they do
// nothing or are refused, because a proposal whose answer was lost may have been applied.
type Command interface {
	kind() kind
	encode(*encoder)
}

// decodable is a pointer to a Command; apply sees commands in this form only.
type decodable interface {
	Command
	decode(*decoder)
}

// kind is on the wire and never reused.
type kind uint16

const (
	kindFormCluster         kind = 1
	kindRegisterBroker      kind = 2
	kindFenceBroker         kind = 3
	kindUnfenceBroker       kind = 4
	kindUnregisterBroker    kind = 5
	kindCreateTopics        kind = 6
	kindDeleteTopics        kind = 7
	kindCreatePartitions    kind = 8
	kindAlterConfigs        kind = 9
	kindAllocateProducerIDs kind = 10
	kindAlterPartitions     kind = 11
	kindElectLeaders        kind = 12
	kindBecomeController    kind = 13
	kindFinalizeLevel       kind = 14

	// Level 2: clusters of more than one node.
	kindRegisterBrokerV2   kind = 15
	kindAddReplica         kind = 16
	kindRemoveReplica      kind = 17
	kindControlledShutdown kind = 18
	kindDrainBroker        kind = 19
	kindReassignPartitions kind = 20
	kindAlterPartitionsV2  kind = 21
	kindClaimController    kind = 22
)

// kinds is the table of all commands: how to make one, and the level from which it may be applied.
var kinds = map[kind]struct {
	level uint16
	make  func() decodable
}{
	kindFormCluster:         {0, func() decodable { return new(FormCluster) }},
	kindRegisterBroker:      {0, func() decodable { return new(RegisterBroker) }},
	kindFenceBroker:         {0, func() decodable { return new(FenceBroker) }},
	kindUnfenceBroker:       {0, func() decodable { return new(UnfenceBroker) }},
	kindUnregisterBroker:    {0, func() decodable { return new(UnregisterBroker) }},
	kindCreateTopics:        {0, func() decodable { return new(CreateTopics) }},
	kindDeleteTopics:        {0, func() decodable { return new(DeleteTopics) }},
	kindCreatePartitions:    {0, func() decodable { return new(CreatePartitions) }},
	kindAlterConfigs:        {0, func() decodable { return new(AlterConfigs) }},
	kindAllocateProducerIDs: {0, func() decodable { return new(AllocateProducerIDs) }},
	kindAlterPartitions:     {0, func() decodable { return new(AlterPartitions) }},
	kindElectLeaders:        {0, func() decodable { return new(ElectLeaders) }},
	kindBecomeController:    {0, func() decodable { return new(BecomeController) }},
	kindFinalizeLevel:       {0, func() decodable { return new(FinalizeLevel) }},

	kindRegisterBrokerV2:   {2, func() decodable { return new(RegisterBrokerV2) }},
	kindAddReplica:         {2, func() decodable { return new(AddReplica) }},
	kindRemoveReplica:      {2, func() decodable { return new(RemoveReplica) }},
	kindControlledShutdown: {2, func() decodable { return new(ControlledShutdown) }},
	kindDrainBroker:        {2, func() decodable { return new(DrainBroker) }},
	kindReassignPartitions: {2, func() decodable { return new(ReassignPartitions) }},
	kindAlterPartitionsV2:  {2, func() decodable { return new(AlterPartitionsV2) }},
	kindClaimController:    {2, func() decodable { return new(ClaimController) }},
}

// MaxLevel is the highest feature level that this version can apply.
//
//	1  a broker alone
//	2  clusters: replicas with addresses, reassignments, drains, controlled shutdown; snapshot version 2
const MaxLevel uint16 = 2

// clusterLevel is the level from which the fields of clusters exist.
const clusterLevel uint16 = 2

// FormCluster gives the cluster its id, its level and its first replicas, once.
type FormCluster struct {
	ClusterID string
	Level     uint16
	Replicas  []Replica
	// Brokers announced here are fenced until they register: placement may count on them.
	Brokers []int32
}

// RegisterBroker announces a starting broker. The broker epoch is the command's raft index, and the
// leader epoch of every partition that the broker leads is raised in the same command: no process
// leads in an epoch it did not begin.
type RegisterBroker struct {
	ID            int32
	ReplicaID     uint64 // 0: this broker has no raft replica of its own
	DirectoryID   UUID
	IncarnationID UUID // drawn at process start; the same one again is a retry
	Host          string
	Port          int32
	Rack          string
	MaxLevel      uint16 // must be at least the finalised level
	// Fenced keeps the broker out of leaderships until UnfenceBroker; a standalone one is born unfenced.
	Fenced bool
	// ReplaceDirectory is the operator's word that the old data directory is lost for good: the broker
	// leaves every ISR and ELR. Without it a known id with another directory is refused.
	ReplaceDirectory bool
}

// FenceBroker takes all leaderships and ISR memberships from a broker, in one command.
type FenceBroker struct {
	ID              int32
	BrokerEpoch     int64
	ControllerEpoch uint64
}

// UnfenceBroker lets a registered broker lead again, and elects it where nobody leads.
type UnfenceBroker struct {
	ID              int32
	BrokerEpoch     int64
	ControllerEpoch uint64
}

// UnregisterBroker forgets a fenced broker that holds no replica.
type UnregisterBroker struct {
	ID          int32
	BrokerEpoch int64
}

// CreateTopics creates topics, each on its own: one Item each.
type CreateTopics struct{ Topics []NewTopic }

// NewTopic is one element of CreateTopics.
type NewTopic struct {
	Name     string
	ID       UUID
	Internal bool
	// Assignments lists the replicas of each partition, the preferred leader first.
	Assignments [][]int32
	Configs     map[string]string
}

// DeleteTopics deletes topics by id, one Item each, and leaves tombstones.
type DeleteTopics struct {
	IDs       []UUID
	NowMillis int64 // the proposer's clock; apply has none
}

// CreatePartitions adds partitions to topics, one Item each.
type CreatePartitions struct{ Topics []MorePartitions }

// MorePartitions is one element of CreatePartitions.
type MorePartitions struct {
	ID UUID
	// Count is how many partitions the proposer saw: adding twice is refused.
	Count int32
	// Assignments lists the replicas of each additional partition.
	Assignments [][]int32
}

// AlterConfigs changes dynamic configs, one Item and all or nothing for each resource.
type AlterConfigs struct{ Resources []ConfigChange }

// ConfigChange is one element of AlterConfigs. Incremental operations on lists are resolved by the
// proposer, who names the old values it started from in Expect.
type ConfigChange struct {
	Resource ConfigResource
	Replace  bool              // forget every key that is not in Set
	Set      map[string]string //
	Delete   []string
	// Expect holds old values that must still be there, ExpectAbsent keys that must still be unset.
	Expect       map[string]string
	ExpectAbsent []string
}

// AllocateProducerIDs cuts a block of producer ids for a broker: Value is its first id.
type AllocateProducerIDs struct {
	BrokerID    int32
	BrokerEpoch int64
	Count       int32
}

// AlterPartitions is a leader's change of ISRs (KIP-497), one Item each.
type AlterPartitions struct {
	BrokerID    int32
	BrokerEpoch int64
	Partitions  []ISRChange
}

// ISRChange is one element of AlterPartitions.
type ISRChange struct {
	TopicID        UUID
	Partition      int32
	LeaderEpoch    int32
	PartitionEpoch int32
	ISR            []ISRMember
}

// ISRMember is a broker as its leader knew it (KIP-903).
type ISRMember struct {
	ID          int32
	BrokerEpoch int64
}

// ElectLeaders moves leaderships, one Item each.
type ElectLeaders struct {
	ControllerEpoch uint64
	Partitions      []Election
}

// Election is one element of ElectLeaders.
type Election struct {
	TopicID        UUID
	Partition      int32
	PartitionEpoch int32
	// Leader is the wanted broker; NoBroker takes the first eligible in order of preference.
	Leader int32
	// Unclean admits a replica outside ISR and ELR: records may be lost. An operator's word only.
	Unclean bool
}

// BecomeController makes a broker the controller; its epoch is the command's raft index.
type BecomeController struct{ NodeID int32 }

// FinalizeLevel raises the feature level for good.
type FinalizeLevel struct{ Level uint16 }

// encodeCommand writes version, level, kind and body.
func encodeCommand(c Command) ([]byte, error) {
	k := c.kind()
	e := encoder{b: make([]byte, 0, 128)}
	e.byte(codecVersion)
	e.uint(uint64(kinds[k].level))
	e.uint(uint64(k))
	c.encode(&e)
	if len(e.b) > MaxCommandBytes {
		return nil, fmt.Errorf("%w: %d bytes", ErrCommandTooLarge, len(e.b))
	}
	return e.b, nil
}

// decodeCommand reads what encodeCommand wrote. Level is valid with ErrUnknownCommand too, so that
// a replica can tell a command it must reject from one that it ought to know.
func decodeCommand(b []byte) (c decodable, level uint16, err error) {
	if len(b) > MaxCommandBytes {
		return nil, 0, ErrCommandTooLarge
	}
	d := decoder{b: b}
	if v := d.byte(); d.bad || v != codecVersion {
		return nil, 0, fmt.Errorf("%w: codec version %d", ErrUnknownCommand, v)
	}
	level = d.uint16()
	k := kind(d.uint16())
	if d.bad {
		return nil, 0, ErrDecode
	}
	known, ok := kinds[k]
	if !ok {
		return nil, level, fmt.Errorf("%w: %d", ErrUnknownCommand, k)
	}
	c = known.make()
	c.decode(&d)
	if err := d.finish(); err != nil {
		return nil, level, fmt.Errorf("command %d: %w", k, err)
	}
	return c, level, nil
}
