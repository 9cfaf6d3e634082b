package broker

import (
	"slices"

	"millrace/broker/replica"
	"millrace/broker/wire"
	"millrace/raft"
)

// absent says why a broker has no replica of a partition that a client names: it does not exist, or it is elsewhere. A
// topic is named by id where the request's version does.
func (b *Broker) absent(name string, id [16]byte, byID bool, index int32) int16 {
	img := b.meta.Image()
	t := img.Topic(name)
	if byID {
		if t = img.TopicByID(id); t == nil {
			return errUnknownTopicID
		}
	}
	if t.Partition(index) == nil {
		return errUnknownTopicOrPartition
	}
	return errNotLeaderOrFollower
}

// leaderHints tells clients that came to the wrong broker where the leaders are (KIP-951).
type leaderHints struct {
	img   *raft.Image
	nodes []wire.NodeEndpoint
}

// of returns the leader and its epoch, and remembers where it can be reached; -1 when nobody is known to lead.
func (h *leaderHints) of(b *Broker, name string, id [16]byte, index int32) (leader, epoch int32) {
	if h.img == nil {
		h.img = b.meta.Image()
	}
	t := h.img.Topic(name)
	if id != ([16]byte{}) {
		t = h.img.TopicByID(id)
	}
	p := t.Partition(index)
	if p == nil || p.Leader == raft.NoLeader {
		return -1, -1
	}
	n := h.img.Broker(p.Leader)
	if n == nil || n.Fenced {
		return -1, -1
	}
	if !slices.ContainsFunc(h.nodes, func(e wire.NodeEndpoint) bool { return e.ID == n.ID }) {
		h.nodes = append(h.nodes, wire.NodeEndpoint{ID: n.ID, Host: n.Host, Port: n.Port, Rack: n.Rack})
	}
	return p.Leader, p.LeaderEpoch
}

// nearest finds the in-sync follower that shares a client's rack and has what it asks for (KIP-392); -1: it reads here.
func (b *Broker) nearest(p *replica.Partition, rack string, offset int64) int32 {
	img := b.meta.Image()
	if rack == "" || !b.conf.RackAwareReads() || rack == img.Broker(b.nodeID).Rack {
		return -1
	}
	others, isr := p.Followers()
	for _, id := range others {
		n := img.Broker(id)
		if n == nil || n.Fenced || n.Rack != rack || !slices.Contains(isr, id) {
			continue
		}
		if lag, ok := p.FollowerLag(id); ok && p.Log().AppendedEnd()-lag >= offset {
			return id
		}
	}
	return -1
}
