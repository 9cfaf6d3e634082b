package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"millrace/raft"
	"millrace/raft/controller"
)

// What an operator does to a cluster, through any of its brokers. Every call asks a quorum or proposes a command; its
// error is in words that the operator can act on. Repeating a call is safe.

var errAlone = errors.New("this broker runs alone: it belongs to no cluster")

// ClusterPromote gives a node that follows the metadata a vote, once it has caught up.
func (b *Broker) ClusterPromote(ctx context.Context, node int32) error {
	r, err := b.replicaOf(node)
	if err != nil {
		return err
	}
	if err := b.meta.Promote(ctx, r.ID); err != nil {
		return fmt.Errorf("node %d: %w", node, err)
	}
	b.log.Info("a node votes now", "node", node, "replica", r.ID)
	return nil
}

// replicaOf finds a node's replica of the metadata.
func (b *Broker) replicaOf(node int32) (*raft.Replica, error) {
	if b.cluster == nil {
		return nil, errAlone
	}
	for _, r := range b.meta.Image().Replicas {
		if r.NodeID == node && !r.Removed {
			return r, nil
		}
	}
	return nil, fmt.Errorf("node %d is no member of this cluster", node)
}

// fencedPatience is how long a removal waits for the session of the node's broker to end.
const fencedPatience = 10 * time.Second

// ClusterRemove takes a node out of the metadata's quorum for good, and forgets its broker. Without force it must hold
// no replica (drain it first), and the voters that are left must be able to go on. With force a node that is lost is
// removed although it holds replicas: the controller moves those elsewhere, and once that is done the same call
// without force forgets the broker.
func (b *Broker) ClusterRemove(ctx context.Context, node int32, force bool) error {
	if b.cluster == nil {
		return errAlone
	}
	img := b.meta.Image()
	r, err := b.replicaOf(node)
	known := img.Broker(node)
	if err != nil && known == nil {
		return err
	}
	held := replicasOn(img, node)
	switch {
	case held > 0 && !force:
		return fmt.Errorf("node %d holds %d replicas: drain it first (or force, if it is lost)", node, held)
	case held > 0:
		if err := b.drain(ctx, node, true); err != nil {
			return err
		}
	}
	if r != nil {
		if err := b.meta.Remove(ctx, r.ID, force); err != nil {
			return fmt.Errorf("node %d: %w", node, err)
		}
		b.log.Warn("a node was removed from the metadata's quorum", "node", node, "replica", r.ID, "force", force)
	}
	if held > 0 || known == nil {
		return nil
	}
	return b.forgetOnceFenced(ctx, node)
}

// forgetOnceFenced forgets a broker whose process is about to notice that it was removed.
func (b *Broker) forgetOnceFenced(ctx context.Context, node int32) error {
	ctx, cancel := context.WithTimeout(ctx, fencedPatience)
	defer cancel()
	for {
		img := b.meta.Image()
		n := img.Broker(node)
		switch {
		case n == nil:
			return nil
		case n.Fenced:
			return b.forgetBroker(ctx, node)
		}
		if _, err := b.meta.WaitIndex(ctx, img.Index+1); err != nil {
			return fmt.Errorf("node %d was removed, but its broker still runs: stop it and remove it again: %w", node, err)
		}
	}
}

func replicasOn(img *raft.Image, node int32) (n int) {
	img.EachTopic(func(t *raft.Topic) bool {
		for _, p := range t.Partitions {
			for _, id := range p.Replicas {
				if id == node {
					n++
				}
			}
		}
		return true
	})
	return n
}

// ClusterDrain marks a node that is to lead nothing and then hold nothing, or takes the mark away. The controller moves
// leaderships at once and replicas a few at a time.
func (b *Broker) ClusterDrain(ctx context.Context, node int32, on bool) error {
	if b.cluster == nil {
		return errAlone
	}
	if b.meta.Image().Broker(node) == nil {
		return fmt.Errorf("broker %d is not registered", node)
	}
	return b.drain(ctx, node, on)
}

func (b *Broker) drain(ctx context.Context, node int32, on bool) error {
	if _, err := b.propose(ctx, raft.DrainBroker{ID: node, Drain: on}, 0); err != nil {
		return err
	}
	b.log.Info("node is drained", "node", node, "on", on)
	return nil
}

// balanceMovesMax bounds what one call starts: another call goes on from there.
const balanceMovesMax = 500

// ClusterBalance starts moves that even out what the brokers hold, and says how many.
func (b *Broker) ClusterBalance(ctx context.Context) (moves int, err error) {
	if b.cluster == nil {
		return 0, errAlone
	}
	return b.move(ctx, controller.Balance(b.meta.Image(), balanceMovesMax))
}

// move proposes moves and counts those that were taken.
func (b *Broker) move(ctx context.Context, moves []controller.Move) (taken int, err error) {
	for _, c := range controller.Commands(moves) {
		items, err := b.propose(ctx, c, len(c.(raft.ReassignPartitions).Partitions))
		if err != nil {
			return taken, err
		}
		for i := range items {
			if e := items[i].Err(); e == nil {
				taken++
			} else if err == nil && !errors.Is(e, raft.InvalidPartitionEpoch) && !errors.Is(e, raft.UnknownTopic) {
				err = e // the others changed meanwhile: nothing to do about them
			}
		}
		if err != nil {
			return taken, err
		}
	}
	return taken, nil
}

// ClusterSetReplicationFactor starts moves that give topics that many replicas; no topics means all of them, internal
// ones too. Where nobody has said how many in-sync replicas acks=all needs, three replicas and more make it two, as in
// a cluster that began with three nodes.
func (b *Broker) ClusterSetReplicationFactor(ctx context.Context, topics []string, replicationFactor int) error {
	if b.cluster == nil {
		return errAlone
	}
	img := b.meta.Image()
	if len(topics) == 0 {
		for _, t := range img.SortedTopics() {
			topics = append(topics, t.Name)
		}
	}
	moves, err := controller.SetReplicationFactor(img, topics, replicationFactor)
	if err != nil {
		return err
	}
	const minISR = "min.insync.replicas"
	if _, set := img.ClusterConfig()[minISR]; replicationFactor >= 3 && !set {
		items, err := b.propose(ctx, raft.AlterConfigs{Resources: []raft.ConfigChange{{
			Resource: raft.ConfigResource{Type: raft.ConfigBroker}, Set: map[string]string{minISR: "2"}, ExpectAbsent: []string{minISR},
		}}}, 1)
		if err == nil && items[0].Code != raft.ConfigMismatch {
			err = items[0].Err()
		}
		if err != nil {
			return err
		}
		b.log.Info("acks=all needs two in-sync replicas now, by default", "setting", minISR)
	}
	n, err := b.move(ctx, moves)
	b.log.Info("replication factor", "topics", len(topics), "replicas", replicationFactor, "partitions_changing", n)
	return err
}

// ClusterFinalize raises the metadata level for good; 0 is the highest that all brokers know.
func (b *Broker) ClusterFinalize(ctx context.Context, level int) error {
	img := b.meta.Image()
	if level == 0 {
		level = int(possibleLevel(img))
	}
	switch {
	case level < int(img.Level):
		return fmt.Errorf("level %d is finalised already: it cannot be lowered", img.Level)
	case level > int(raft.MaxLevel):
		return fmt.Errorf("this version knows level %d at most", raft.MaxLevel)
	}
	return b.finalize(ctx, uint16(level))
}
