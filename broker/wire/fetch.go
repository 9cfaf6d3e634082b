package wire

// Versions of Fetch that this package reads and writes.
const (
	FetchMin = 4
	FetchMax = 18
)

// FetchFlexible tells whether a version of Fetch uses compact forms.
func FetchFlexible(version int16) bool { return version >= 12 }

// FetchHeader is what stands before the topics of a Fetch request.
type FetchHeader struct {
	ReplicaID     int32
	MaxWaitMillis int32
	MinBytes      int32
	MaxBytes      int32
	Isolation     int8
	SessionID     int32
	SessionEpoch  int32
}

// FetchPartition is one partition of a Fetch request. Topic aliases the frame.
type FetchPartition struct {
	Topic            []byte   // up to version 12
	TopicID          [16]byte // from version 13
	Partition        int32
	LeaderEpoch      int32 // -1: not known to the client
	FetchOffset      int64
	LastFetchedEpoch int32 // -1: none
	LogStartOffset   int64 // of a follower; -1 from consumers
	MaxBytes         int32
}

// FetchReader walks a Fetch request: the partitions first, then the forgotten
// ones, then the end.
type FetchReader struct {
	r        Reader
	version  int16
	flexible bool
	topics   int
	parts    int
	topic    []byte
	topicID  [16]byte
	rack     []byte
	stage    int8 // 0 partitions, 1 forgotten, 2 done
}

// Reset starts on the body of a request and returns its header fields.
func (f *FetchReader) Reset(body []byte, version int16) (FetchHeader, error) {
	*f = FetchReader{r: NewReader(body), version: version, flexible: FetchFlexible(version)}
	h := FetchHeader{ReplicaID: -1, SessionEpoch: -1}
	if version <= 14 {
		h.ReplicaID = f.r.Int32()
	}
	h.MaxWaitMillis = f.r.Int32()
	h.MinBytes = f.r.Int32()
	h.MaxBytes = f.r.Int32()
	h.Isolation = f.r.Int8()
	if version >= 7 {
		h.SessionID = f.r.Int32()
		h.SessionEpoch = f.r.Int32()
	}
	f.topics = f.r.Count(f.flexible, 5)
	return h, f.r.Err()
}

// Next reads the next partition to fetch; false when the forgotten ones begin.
func (f *FetchReader) Next(out *FetchPartition) bool {
	if !f.nextTopic(0) {
		return false
	}
	*out = FetchPartition{Topic: f.topic, TopicID: f.topicID, Partition: f.r.Int32(), LeaderEpoch: -1, LastFetchedEpoch: -1, LogStartOffset: -1}
	if f.version >= 9 {
		out.LeaderEpoch = f.r.Int32()
	}
	out.FetchOffset = f.r.Int64()
	if f.version >= 12 {
		out.LastFetchedEpoch = f.r.Int32()
	}
	if f.version >= 5 {
		out.LogStartOffset = f.r.Int64()
	}
	out.MaxBytes = f.r.Int32()
	f.r.Tags(f.flexible, nil)
	f.endPart()
	return !f.r.bad
}

// NextForgotten reads the next partition that leaves the session; false at the
// end of the request. It is called after Next has returned false.
func (f *FetchReader) NextForgotten(out *FetchPartition) bool {
	if !f.nextTopic(1) {
		return false
	}
	*out = FetchPartition{Topic: f.topic, TopicID: f.topicID, Partition: f.r.Int32()}
	f.endPart()
	return !f.r.bad
}

// nextTopic leaves f in front of a partition of the given stage, or returns
// false with f at the beginning of the next stage.
func (f *FetchReader) nextTopic(stage int8) bool {
	for f.parts == 0 {
		if f.r.bad || f.stage != stage {
			return false
		}
		if f.topics == 0 {
			f.stage++
			if f.stage == 1 && f.version >= 7 {
				f.topics = f.r.Count(f.flexible, 5)
			}
			if f.stage == 2 {
				if f.version >= 11 {
					f.rack, _ = f.r.String(f.flexible)
				}
				f.r.Tags(f.flexible, nil)
			}
			return false
		}
		f.topics--
		if f.version >= 13 {
			f.topicID = f.r.UUID()
		} else {
			f.topic, _ = f.r.String(f.flexible)
		}
		f.parts = f.r.Count(f.flexible, 4)
		if f.parts == 0 {
			f.r.Tags(f.flexible, nil)
		}
	}
	return f.stage == stage && !f.r.bad
}

func (f *FetchReader) endPart() {
	f.parts--
	if f.parts == 0 {
		f.r.Tags(f.flexible, nil)
	}
}

// Rack is the rack of the client (KIP-392), empty if it has none, once NextForgotten has returned false. It aliases the
// frame.
func (f *FetchReader) Rack() []byte { return f.rack }

// Err is ErrMalformed when the walk ended because of damage.
func (f *FetchReader) Err() error { return f.r.Err() }

// FetchResult is the answer for one partition, without its records.
type FetchResult struct {
	Partition        int32
	ErrorCode        int16
	HighWatermark    int64
	LastStableOffset int64
	LogStartOffset   int64
	Aborted          []AbortedTxn
	RecordBytes      int
	LeaderID         int32 // KIP-951, version 16 and later; with error 6 or 74 only, -1: no hint
	LeaderEpoch      int32
	PreferredReplica int32 // where the client should read instead (KIP-392), version 11 and later; -1: here
}

// AbortedTxn tells a read_committed consumer what to drop.
type AbortedTxn struct {
	ProducerID  int64
	FirstOffset int64
}

// AppendFetchStart appends what stands before the topics of a response.
func AppendFetchStart(b []byte, version int16, errorCode int16, sessionID int32, topics int) []byte {
	b = AppendInt32(b, 0) // throttle time
	if version >= 7 {
		b = AppendInt16(b, errorCode)
		b = AppendInt32(b, sessionID)
	}
	return AppendCount(b, FetchFlexible(version), topics)
}

// AppendFetchTopic appends the beginning of one topic.
func AppendFetchTopic(b []byte, version int16, name string, id [16]byte, partitions int) []byte {
	if version >= 13 {
		b = append(b, id[:]...)
	} else {
		b = AppendString(b, FetchFlexible(version), name)
	}
	return AppendCount(b, FetchFlexible(version), partitions)
}

// AppendFetchResult appends one partition up to and including the length of
// its records; the records follow, then AppendFetchResultEnd.
func AppendFetchResult(b []byte, version int16, isolation int8, p *FetchResult) []byte {
	flexible := FetchFlexible(version)
	b = AppendInt32(b, p.Partition)
	b = AppendInt16(b, p.ErrorCode)
	b = AppendInt64(b, p.HighWatermark)
	b = AppendInt64(b, p.LastStableOffset)
	if version >= 5 {
		b = AppendInt64(b, p.LogStartOffset)
	}
	if isolation == 0 {
		b = AppendCount(b, flexible, -1) // Kafka: null for read_uncommitted
	} else {
		b = AppendCount(b, flexible, len(p.Aborted))
		for _, a := range p.Aborted {
			b = AppendInt64(b, a.ProducerID)
			b = AppendInt64(b, a.FirstOffset)
			b = AppendNoTags(b, flexible)
		}
	}
	if version >= 11 {
		b = AppendInt32(b, p.PreferredReplica)
	}
	// Never null: some clients take null records for a protocol error.
	return AppendBytesLen(b, flexible, p.RecordBytes)
}

// AppendFetchResultEnd ends one partition, after its records.
func AppendFetchResultEnd(b []byte, version int16, p *FetchResult) []byte {
	if version >= 16 && (p.ErrorCode == 6 || p.ErrorCode == 74) && p.LeaderID >= 0 {
		b = append(b, 1, 1, 9) // one tag, number 1 (CurrentLeader), nine bytes
		b = AppendInt32(b, p.LeaderID)
		b = AppendInt32(b, p.LeaderEpoch)
		return append(b, 0)
	}
	return AppendNoTags(b, FetchFlexible(version))
}

// AppendFetchEnd ends a response; nodes are the leaders that its hints name (version 16 and later).
func AppendFetchEnd(b []byte, version int16, nodes []NodeEndpoint) []byte {
	if version >= 16 && len(nodes) > 0 {
		return appendNodes(b, nodes)
	}
	return AppendNoTags(b, FetchFlexible(version))
}
