package replication

import (
	"fmt"

	"millrace/broker/replica"
	"millrace/engine"
)

// Key names a partition in the cluster.
type Key struct {
	Topic     [16]byte
	Partition int32
}

func (k Key) String() string { return fmt.Sprintf("%x-%d", k.Topic[:4], k.Partition) }

// Partition is what the streams need of a replica. *replica.Partition is one.
type Partition interface {
	// As the leader.

	OpenStint(follower int32) (s replica.Stint, logStart, hw int64, err error)
	Offered(s replica.Stint, o replica.Offer) (replica.Verdict, error)
	Acknowledged(s replica.Stint, received, stored int64) error
	CloseStint(s replica.Stint)
	Log() *engine.Log
	HighWatermark() int64
	LeaderEpoch() (epoch int32, leading bool)
	Damaged(err error)

	// As a follower.

	Follow(leader, epoch int32, generation uint64) (replica.Inflow, replica.Offer, error)
	CutTo(in replica.Inflow, v replica.Verdict) (replica.Offer, error)
	Agree(in replica.Inflow, v replica.Verdict) error
	AppendRun(in replica.Inflow, run *replica.Run) error
	TakeMark(in replica.Inflow, hw, logStart int64) error
	AckEnd() int64
}
