package wire

// Versions of Produce that this package reads and writes.
const (
	ProduceMin = 3
	ProduceMax = 13
)

// ProduceFlexible tells whether a version of Produce uses compact forms.
func ProduceFlexible(version int16) bool { return version >= 9 }

// ProduceHeader is what stands before the topics of a Produce request.
type ProduceHeader struct {
	TransactionalID []byte // nil: none
	Acks            int16
	TimeoutMillis   int32
	TopicCount      int
}

// ProducePartition is one partition of a Produce request. Its slices alias the
// frame.
type ProducePartition struct {
	Topic     []byte   // the name, up to version 12
	TopicID   [16]byte // the id, from version 13
	FirstPart bool     // this partition is the first of its topic
	Partition int32
	Records   []byte // nil: null
}

// ProduceReader walks a Produce request partition by partition.
type ProduceReader struct {
	r         Reader
	version   int16
	flexible  bool
	topics    int
	parts     int
	topic     []byte
	topicID   [16]byte
	firstPart bool
	done      bool
}

// Reset starts on the body of a request and returns its header fields.
func (p *ProduceReader) Reset(body []byte, version int16) (ProduceHeader, error) {
	*p = ProduceReader{r: NewReader(body), version: version, flexible: ProduceFlexible(version)}
	var h ProduceHeader
	h.TransactionalID, _ = p.r.String(p.flexible)
	h.Acks = p.r.Int16()
	h.TimeoutMillis = p.r.Int32()
	h.TopicCount = p.r.Count(p.flexible, 5)
	p.topics = h.TopicCount
	return h, p.r.Err()
}

// Next reads the next partition; false at the end or at damage (see Err).
func (p *ProduceReader) Next(out *ProducePartition) bool {
	for p.parts == 0 {
		if p.done || p.r.bad {
			return false
		}
		if p.topics == 0 {
			p.r.Tags(p.flexible, nil)
			p.done = true
			return false
		}
		p.topics--
		if p.version >= 13 {
			p.topicID = p.r.UUID()
		} else {
			p.topic, _ = p.r.String(p.flexible)
		}
		p.parts = p.r.Count(p.flexible, 5)
		p.firstPart = true
		if p.parts == 0 {
			p.r.Tags(p.flexible, nil)
		}
	}
	p.parts--
	*out = ProducePartition{Topic: p.topic, TopicID: p.topicID, FirstPart: p.firstPart, Partition: p.r.Int32()}
	p.firstPart = false
	out.Records, _ = p.r.Bytes(p.flexible)
	p.r.Tags(p.flexible, nil)
	if p.parts == 0 {
		p.r.Tags(p.flexible, nil)
	}
	return !p.r.bad
}

// Err is ErrMalformed when the walk ended because of damage.
func (p *ProduceReader) Err() error { return p.r.Err() }

// ProduceResult is the answer for one partition.
type ProduceResult struct {
	Partition       int32
	ErrorCode       int16
	BaseOffset      int64
	LogAppendMillis int64 // -1: the topic keeps the producer's timestamps
	LogStartOffset  int64
	RecordErrors    []RecordError // version 8 and later
	ErrorMessage    string        // version 8 and later; empty: null
	LeaderID        int32         // KIP-951, version 10 and later; with ErrorCode 6 only, -1: no hint
	LeaderEpoch     int32
}

// RecordError names one record of a batch that was refused (KIP-467).
type RecordError struct {
	Index   int32
	Message string
}

// AppendProduceTopic appends the beginning of one topic of a response.
func AppendProduceTopic(b []byte, version int16, name string, id [16]byte, partitions int) []byte {
	if version >= 13 {
		b = append(b, id[:]...)
	} else {
		b = AppendString(b, ProduceFlexible(version), name)
	}
	return AppendCount(b, ProduceFlexible(version), partitions)
}

// AppendProduceResult appends one partition of a response.
func AppendProduceResult(b []byte, version int16, p *ProduceResult) []byte {
	flexible := ProduceFlexible(version)
	b = AppendInt32(b, p.Partition)
	b = AppendInt16(b, p.ErrorCode)
	b = AppendInt64(b, p.BaseOffset)
	b = AppendInt64(b, p.LogAppendMillis)
	if version >= 5 {
		b = AppendInt64(b, p.LogStartOffset)
	}
	if version >= 8 {
		b = AppendCount(b, flexible, len(p.RecordErrors))
		for _, e := range p.RecordErrors {
			b = AppendInt32(b, e.Index)
			b = AppendNullString(b, flexible, e.Message)
			b = AppendNoTags(b, flexible)
		}
		b = AppendNullString(b, flexible, p.ErrorMessage)
	}
	if version >= 10 && p.ErrorCode == 6 && p.LeaderID >= 0 {
		b = append(b, 1, 0, 9) // one tag, number 0, nine bytes
		b = AppendInt32(b, p.LeaderID)
		b = AppendInt32(b, p.LeaderEpoch)
		return append(b, 0)
	}
	return AppendNoTags(b, flexible)
}

// AppendProduceEnd appends what follows the topics of a response; nodes are the leaders that its hints name (version 10
// and later).
func AppendProduceEnd(b []byte, version int16, throttleMillis int32, nodes []NodeEndpoint) []byte {
	b = AppendInt32(b, throttleMillis)
	if version >= 10 && len(nodes) > 0 {
		return appendNodes(b, nodes)
	}
	return AppendNoTags(b, ProduceFlexible(version))
}
