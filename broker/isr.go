package broker

import (
	"context"
	"errors"
	"slices"
	"time"

	"millrace/broker/replica"
	"millrace/raft"
)

// How often a broker among several looks after its partitions.
const (
	isrLook    = 250 * time.Millisecond
	isrGather  = 5 * time.Millisecond // changes of that long share a command
	isrTimeout = 5 * time.Second
	houseLook  = time.Second
)

// lag says when followers leave the in-sync replicas.
func (b *Broker) lag() replica.Lag {
	return replica.Lag{Time: b.conf.ReplicaLagTime(), Messages: b.conf.ReplicaLagMessages()}
}

// keepISR has the metadata agree on the in-sync replicas of the partitions that this broker leads, until ctx ends.
func (b *Broker) keepISR(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.partitions.ISRPoke():
			if pause(ctx, isrGather) != nil {
				return
			}
		case <-after(isrLook):
		}
		changes := b.partitions.ISRChanges(b.now())
		if len(changes) == 0 {
			continue
		}
		limit, cancel := context.WithTimeout(ctx, isrTimeout)
		res, err := b.meta.Propose(limit, raft.AlterPartitionsV2{BrokerID: b.nodeID, BrokerEpoch: b.brokerEpoch, Partitions: changes})
		cancel()
		if err != nil && ctx.Err() == nil {
			b.log.Info("in-sync replicas: no answer from the metadata, will ask again", "partitions", len(changes), "error", err)
		}
		b.partitions.ISRChanged(changes, res, err)
		b.logISR(changes, res, err)
	}
}

// logISR tells an operator who fell out of sync and who is back.
func (b *Broker) logISR(changes []raft.ISRChangeV2, res raft.Result, err error) {
	if err != nil || res.Code != raft.OK {
		return
	}
	shown := 0
	for i := range changes {
		if i >= len(res.Items) || res.Items[i].Code != raft.OK {
			continue
		}
		if shown++; shown > 10 {
			b.log.Info("in-sync replicas changed", "more_partitions", len(changes)-i)
			return
		}
		c := &changes[i]
		isr := make([]int32, len(c.ISR))
		for j := range c.ISR {
			isr[j] = c.ISR[j].ID
		}
		b.log.Info("in-sync replicas changed", "topic", b.nameOf(c.TopicID), "partition", c.Partition, "isr", isr)
	}
}

// keepHouse lets followers remove what their leaders removed.
func (b *Broker) keepHouse(ctx context.Context) {
	for pause(ctx, houseLook) == nil {
		if err := b.partitions.Housekeep(); err != nil && ctx.Err() == nil && b.engine.Failed() == nil {
			b.log.Warn("a leader's log start could not be followed", "error", err)
		}
	}
}

// partitionStopped is told of a replica that serves nothing any more. Where it led, another one is asked to.
func (b *Broker) partitionStopped(p *replica.Partition, why error) {
	b.log.Error("a replica was stopped and serves nothing until this broker starts again; see: millrace log check",
		"topic", p.Topic, "partition", p.Index, "reason", why)
	b.loaders.Go(func(ctx context.Context) {
		if err := b.passLeadership(ctx, p); err != nil && ctx.Err() == nil {
			b.log.Error("no other replica could be asked to lead", "topic", p.Topic, "partition", p.Index, "error", err)
		}
	})
}

var errNobodyElse = errors.New("no other replica is in sync")

// passLeadership has another in-sync replica lead a partition, if this broker still does.
func (b *Broker) passLeadership(ctx context.Context, p *replica.Partition) error {
	img := b.meta.Image()
	rp := img.TopicByID(p.TopicID).Partition(p.Index)
	if rp == nil || rp.Leader != b.nodeID {
		return nil
	}
	to := slices.IndexFunc(rp.ISR, func(id int32) bool {
		n := img.Broker(id)
		return id != b.nodeID && n != nil && !n.Fenced && !n.ShuttingDown
	})
	if to < 0 {
		return errNobodyElse
	}
	res, err := b.meta.Propose(ctx, raft.ElectLeaders{ControllerEpoch: img.Controller.Epoch, Partitions: []raft.Election{{
		TopicID: p.TopicID, Partition: p.Index, PartitionEpoch: rp.PartitionEpoch, Leader: rp.ISR[to],
	}}})
	if err == nil {
		err = res.Err()
	}
	if err == nil && len(res.Items) > 0 && res.Items[0].Code != raft.OK {
		err = res.Items[0].Code
	}
	return err
}

func (b *Broker) nameOf(topic raft.UUID) string {
	if t := b.partitions.TopicByID(topic); t != nil {
		return t.Name
	}
	return topic.String()
}
