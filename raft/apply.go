package raft

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"millrace/raft/broken"
)

// Bounds of the state. They keep a runaway client from filling every replica's memory; a command
// that would pass one is refused with LimitExceeded.
const (
	maxBrokers            = 1000
	maxPartitions         = 1_000_000
	maxPartitionsPerTopic = 100_000
	maxReplicas           = 32 // of one partition
	maxTopicName          = 249
	maxConfigKeys         = 512
	maxConfigBytes        = 256 << 10 // of one resource
	maxConfigResources    = 1_000_000
	maxHostBytes          = 512
	maxProducerBlock      = 1_000_000
)

const (
	tombstoneMillis = 7 * 24 * 3600 * 1000
	sweepMillis     = 3600 * 1000
)

// errCannotApply means that other replicas may have applied what this one does not understand: it
// must stop before its image differs from theirs.
var errCannotApply = errors.New("raft: cannot apply an accepted command; this version is too old for the cluster")

// applyBytes is what the replicated log does to an image: a pure function of its arguments. A
// refusal is a Result; an error is errCannotApply and the image must not be used any further.
func applyBytes(m *Image, index uint64, b []byte) (*Image, Result, error) {
	c, level, err := decodeCommand(b)
	switch {
	case level > m.Level:
		// Checked before anything else: versions that know the command must refuse it just like
		// those that do not.
		return m.at(index), refuse(index, UnsupportedLevel, fmt.Sprintf("command needs level %d, finalised is %d", level, m.Level)), nil
	case errors.Is(err, ErrUnknownCommand):
		return m, Result{Index: index, Code: Halted}, fmt.Errorf("%w: index %d: %w", errCannotApply, index, err)
	case err != nil:
		return m.at(index), refuse(index, InvalidCommand, err.Error()), nil
	}
	return apply(m, index, c)
}

// apply executes one decoded command. It never modifies m.
func apply(m *Image, index uint64, c decodable) (*Image, Result, error) {
	now := m.at(index)
	r := Result{Index: index}
	switch c := c.(type) {
	case *FormCluster:
		now.formCluster(c, &r)
	case *RegisterBroker:
		now.registerBroker(c, &r)
	case *FenceBroker:
		now.fenceBroker(c, &r)
	case *UnfenceBroker:
		now.unfenceBroker(c, &r)
	case *UnregisterBroker:
		now.unregisterBroker(c, &r)
	case *CreateTopics:
		now.createTopics(c, &r)
	case *DeleteTopics:
		now.deleteTopics(c, &r)
	case *CreatePartitions:
		now.createPartitions(c, &r)
	case *AlterConfigs:
		now.alterConfigs(c, &r)
	case *AllocateProducerIDs:
		now.allocateProducerIDs(c, &r)
	case *AlterPartitions:
		now.alterPartitions(c, &r)
	case *ElectLeaders:
		now.electLeaders(c, &r)
	case *BecomeController:
		now.becomeController(c, &r)
	case *FinalizeLevel:
		now.finalizeLevel(c, &r)
	case *RegisterBrokerV2:
		now.registerBrokerV2(c, &r)
	case *AddReplica:
		now.addReplica(c, &r)
	case *RemoveReplica:
		now.removeReplica(c, &r)
	case *ControlledShutdown:
		now.controlledShutdown(c, &r)
	case *DrainBroker:
		now.drainBroker(c, &r)
	case *ReassignPartitions:
		now.reassignPartitions(c, &r)
	case *AlterPartitionsV2:
		now.alterPartitionsV2(c, &r)
	case *ClaimController:
		now.claimController(c, &r)
	default:
		panic(fmt.Sprintf("BUG: no apply for %T", c))
	}
	if now.Level > MaxLevel {
		return m, Result{Index: index, Code: Halted}, fmt.Errorf("%w: level %d was finalised, this version knows %d", errCannotApply, now.Level, MaxLevel)
	}
	return now, r, nil
}

// at is the copy of m that the command at index works on.
func (m *Image) at(index uint64) *Image {
	c := m.clone()
	c.Index = index
	return c
}

func refuse(index uint64, c Code, detail string) Result {
	return Result{Index: index, Code: c, Detail: detail}
}

func (r *Result) refuse(c Code, format string, args ...any) {
	r.Code, r.Detail = c, fmt.Sprintf(format, args...)
}

func item(c Code, format string, args ...any) ItemResult {
	return ItemResult{Code: c, Detail: fmt.Sprintf(format, args...)}
}

func (m *Image) formCluster(c *FormCluster, r *Result) {
	switch {
	case m.ClusterID != "":
		r.refuse(ClusterFormed, "as %s", m.ClusterID)
		return
	case c.ClusterID == "" || len(c.ClusterID) > 64 || c.Level == 0:
		r.refuse(InvalidCommand, "empty cluster id or level 0")
		return
	case len(c.Replicas) > maxReplicas || len(c.Brokers) > maxBrokers:
		r.refuse(LimitExceeded, "%d replicas, %d brokers", len(c.Replicas), len(c.Brokers))
		return
	}
	m.ClusterID, m.Level = c.ClusterID, c.Level
	m.Replicas = map[uint64]*Replica{}
	for _, rep := range c.Replicas {
		m.Replicas[rep.ID] = &rep
	}
	for _, id := range c.Brokers {
		if id >= 0 && m.Brokers[id] == nil {
			m.putBroker(&Broker{ID: id, Epoch: -1, Fenced: true, MaxLevel: c.Level})
		}
	}
}

func (m *Image) becomeController(c *BecomeController, r *Result) {
	m.Controller = Controller{NodeID: c.NodeID, Epoch: m.Index, Term: m.Controller.Term}
	r.Value = int64(m.Index)
}

func (m *Image) finalizeLevel(c *FinalizeLevel, r *Result) {
	if c.Level <= m.Level {
		if c.Level < m.Level {
			r.refuse(InvalidCommand, "level %d is finalised already", m.Level)
		}
		return
	}
	for _, b := range m.SortedBrokers() {
		if b.MaxLevel < c.Level {
			r.refuse(LevelNotSupported, "broker %d supports level %d", b.ID, b.MaxLevel)
			return
		}
	}
	m.Level = c.Level
}

func (m *Image) allocateProducerIDs(c *AllocateProducerIDs, r *Result) {
	switch {
	case !m.checkBroker(c.BrokerID, c.BrokerEpoch, r):
	case c.Count <= 0 || c.Count > maxProducerBlock:
		r.refuse(InvalidCommand, "block of %d producer ids", c.Count)
	case m.NextProducerID > math.MaxInt64-int64(c.Count):
		r.refuse(LimitExceeded, "producer ids are used up")
	default:
		r.Value = m.NextProducerID
		m.NextProducerID += int64(c.Count)
	}
}

// checkBroker refuses a command whose sender is unknown or has registered again since.
func (m *Image) checkBroker(id int32, epoch int64, r *Result) bool {
	b := m.Brokers[id]
	switch {
	case b == nil:
		r.refuse(UnknownBroker, "%d", id)
	case b.Epoch != epoch:
		r.refuse(StaleBrokerEpoch, "broker %d has epoch %d, not %d", id, b.Epoch, epoch)
	default:
		return true
	}
	return false
}

// checkController refuses the commands of a controller that has been replaced: a frozen one wakes
// up believing, and dragonboat forwards its proposals to the new leader.
func (m *Image) checkController(epoch uint64, r *Result) bool {
	if m.Controller.Epoch != epoch && !broken.NoControllerEpoch {
		r.refuse(StaleControllerEpoch, "controller epoch is %d, not %d", m.Controller.Epoch, epoch)
		return false
	}
	return true
}

func (m *Image) live(id int32) bool {
	b := m.Brokers[id]
	return b != nil && !b.Fenced && !b.ShuttingDown
}

// willing prefers brokers that are to stay.
func (m *Image) willing(id int32) bool { return m.live(id) && !m.Brokers[id].Draining }

func contains(ids []int32, id int32) bool { return slices.Contains(ids, id) }

// without returns ids lacking id, sharing nothing with it.
func without(ids []int32, id int32) []int32 {
	out := make([]int32, 0, len(ids))
	for _, x := range ids {
		if x != id {
			out = append(out, x)
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func distinct(ids []int32) bool {
	for i, id := range ids {
		if contains(ids[:i], id) {
			return false
		}
	}
	return true
}
