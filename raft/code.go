package raft

import "fmt"

// Code is the outcome of a command as the state machine decided it. The numbers are written into
// forwarded answers and must not change.
type Code uint16

// What a command may end with.
const (
	OK                       Code = 0
	InvalidCommand           Code = 1  // it makes no sense whatever the state (bad assignment, empty name)
	UnsupportedLevel         Code = 2  // above the finalised level
	TopicExists              Code = 3  // name or id is taken
	UnknownTopic             Code = 4  // no topic of that id
	UnknownBroker            Code = 5  // not registered
	StaleBrokerEpoch         Code = 6  // the broker has registered again since
	StaleControllerEpoch     Code = 7  // another controller took over
	ClusterFormed            Code = 8  // FormCluster on a formed cluster
	DirectoryMismatch        Code = 9  // a known broker or replica with another data directory
	ConfigMismatch           Code = 10 // the expected old value is not there any more
	FencedLeaderEpoch        Code = 11 // AlterPartitions from an older leader epoch
	InvalidPartitionEpoch    Code = 12 // AlterPartitions from an older partition epoch
	NewerEpoch               Code = 13 // AlterPartitions knows epochs that this image has not: retry at the controller
	NotLeader                Code = 14 // AlterPartitions from a broker that does not lead
	IneligibleReplica        Code = 15 // an ISR member is fenced, unknown or has another broker epoch
	InvalidReplicaAssignment Code = 16 // unknown broker, doubled replica, no live replica
	InvalidPartitions        Code = 17 // not more partitions than there are
	UnknownPartition         Code = 18
	DuplicateBroker          Code = 19 // the id is in use by another live incarnation
	LimitExceeded            Code = 20 // more brokers, topics, partitions or config bytes than the state may hold
	NotFormed                Code = 21 // the cluster has no id yet
	ElectionNotNeeded        Code = 22 // the wanted broker leads already
	EligibleLeaderMissing    Code = 23 // nobody may be elected
	LevelNotSupported        Code = 24 // a registered broker does not support the wanted level
	Halted                   Code = 25 // this replica stopped: it met an accepted command that it cannot apply
	NoReassignment           Code = 26 // a cancelled reassignment that is not under way
	ReplicaRemoved           Code = 27 // the raft replica was removed for good
)

var codeNames = [...]string{
	"ok", "invalid command", "command above the finalised level", "topic exists", "unknown topic", "unknown broker",
	"stale broker epoch", "stale controller epoch", "cluster is formed already", "data directory mismatch",
	"config changed meanwhile", "fenced leader epoch", "invalid partition epoch", "newer epoch than known",
	"not the leader", "ineligible replica", "invalid replica assignment", "invalid number of partitions",
	"unknown partition", "broker id in use", "limit exceeded", "cluster is not formed", "election not needed",
	"no eligible leader", "level not supported by every broker", "replica halted", "no reassignment under way",
	"replica was removed",
}

// Error makes every Code except OK usable as an error; compare with errors.Is or ==.
func (c Code) Error() string {
	if int(c) < len(codeNames) {
		return "raft: " + codeNames[c]
	}
	return fmt.Sprintf("raft: code %d", uint16(c))
}

// Result is what the state machine answered to one command.
type Result struct {
	// Index is the raft index at which the command was applied: WaitIndex(Index) sees its effect.
	Index uint64
	Code  Code
	// Detail explains a refusal in words.
	Detail string
	// Value is what the command hands out: the first id of AllocateProducerIDs, the broker epoch of
	// RegisterBroker, the controller epoch of BecomeController.
	Value int64
	// Items answers commands that hold a list, in its order; empty if Code refused the whole command.
	Items []ItemResult
}

// ItemResult is the outcome for one element of a command's list.
type ItemResult struct {
	Code   Code
	Detail string
}

// Err returns nil for OK and else an error that wraps Code.
func (r Result) Err() error { return codeErr(r.Code, r.Detail) }

// Err returns nil for OK and else an error that wraps Code.
func (r ItemResult) Err() error { return codeErr(r.Code, r.Detail) }

func codeErr(c Code, detail string) error {
	switch {
	case c == OK:
		return nil
	case detail == "":
		return c
	default:
		return fmt.Errorf("%w: %s", c, detail)
	}
}
