package replication

// LinkStats are of one kind of connection to one follower.
type LinkStats struct {
	Connected     bool
	Connects      uint64
	Streams       int // of partitions, whether open or waiting
	Open          int // of them, open ones
	BytesSent     uint64
	FramesSent    uint64
	BytesInFlight int // batches not acknowledged as received
}

// PeerStats are of one follower.
type PeerStats struct {
	Peer          int32
	Tail, CatchUp LinkStats
}

// Stats returns the counters of every follower, in no order.
func (n *Node) Stats() []PeerStats {
	peers := n.Peers()
	all := make([]PeerStats, 0, len(peers))
	for _, p := range peers {
		all = append(all, PeerStats{Peer: p.ID, Tail: p.Tail.stats(), CatchUp: p.CatchUp.stats()})
	}
	return all
}

func (s *Sender) stats() LinkStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return LinkStats{
		Connected: s.connected, Connects: s.connects, Streams: len(s.mine), Open: len(s.streams), BytesSent: s.sentBytes,
		FramesSent: s.sentCount, BytesInFlight: s.inflight,
	}
}
