package replica

// A stint is one stream of a partition's batches from its leader to one follower, from the handshake to the end of
// the connection that carries it. What a follower acknowledges counts for the newest stint only: an acknowledgement
// of an older one may be of a log that has been cut since.
type Stint struct {
	Follower    int32
	LeaderEpoch int32
	Generation  uint64 // never reused by this process; carried by the stream
}

// Offer is what a follower says of its log in the handshake.
type Offer struct {
	BrokerEpoch   int64 // of its process's registration
	LastEpoch     int32 // leader epoch of its last batch or epoch start; -1: none
	End           int64 // what it has appended, flushed or not
	HighWatermark int64
}

// VerdictKind is the leader's answer to an offer.
type VerdictKind uint8

const (
	// Agreed: both logs are the same below Verdict.Offset, which is the follower's end. Batches follow from there.
	Agreed VerdictKind = iota
	// Cut: the follower cuts its log to the smaller one of Verdict.Offset and the end that it has itself for
	// Verdict.Epoch, and offers again (KIP-101, KIP-279).
	Cut
	// Restart: nothing of the follower's log is of use; it begins an empty one at Verdict.Offset, and offers again.
	Restart
)

// Verdict is the leader's answer to an offer.
type Verdict struct {
	Kind   VerdictKind
	Epoch  int32 // of Cut: the leader's largest epoch that is not above the offered one
	Offset int64
}

// Replicator moves batches from leaders to followers (package replication). Its methods may be called on any
// goroutine, also under a partition's lock: they note the news, wake somebody and return. A broker alone has none.
type Replicator interface {
	// Lead: p leads, in its current epoch, with these other replicas. Called again whenever one of both changes.
	Lead(p *Partition, followers []int32)
	// Resign: p does not lead any more.
	Resign(p *Partition)
	// Appended: there are new batches below p.Log().AppendedEnd(). Called once for each append, on the hot path; quiet: the
	// caller is the driver thread of the log's shard, and ends its turn with a flush.
	Appended(p *Partition, quiet bool)
	// Moved: the high watermark or the log start that followers should hear of has moved.
	Moved(p *Partition)
	// Stored: as a follower, p has more on its device (Partition.AckEnd). Called on the driver thread of the log's shard.
	Stored(p *Partition)
}
