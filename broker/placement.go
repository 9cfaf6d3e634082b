package broker

import (
	"errors"
	"hash/fnv"

	"millrace/raft"
	"millrace/raft/controller"
)

// placer assigns replicas to the new partitions of one request; the brokers' load is counted when it is first needed.
type placer struct {
	img *raft.Image
	p   *controller.Placer
}

// place assigns rf replicas to each of count partitions of a topic that has have already. The error is for the client.
func (p *placer) place(topic string, have, count, rf int) ([][]int32, error) {
	if p.p == nil {
		p.p = controller.NewPlacer(p.img)
	}
	h := fnv.New64a()
	h.Write([]byte(topic))
	out, err := p.p.Place(count, rf, h.Sum64()+uint64(have))
	switch {
	case errors.Is(err, controller.ErrTooFewBrokers):
		return nil, faultf(errInvalidReplicationFactor, "Unable to replicate the partition %d time(s): The target replication factor of %d cannot be reached because only %d broker(s) are registered.", rf, rf, knownBrokers(p.img))
	case errors.Is(err, controller.ErrNobodyLives):
		return nil, faultf(errInvalidReplicationFactor, "Unable to replicate the partition %d time(s): All brokers are currently fenced.", rf)
	}
	return out, err
}

// knownBrokers counts the brokers that may hold new replicas, sooner or later: those that were announced and never came
// too, so that what is created on a cluster's first day is replicated once all are there; not those that are drained.
func knownBrokers(img *raft.Image) int {
	n := 0
	for _, b := range img.Brokers {
		if !b.Draining {
			n++
		}
	}
	return n
}
