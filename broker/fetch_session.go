package broker

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"millrace/broker/wire"
)

// fetchSessions is the cache of incremental fetch sessions (KIP-227): a
// consumer of many partitions names them once and then sends and gets only what
// changed. A session is used by one connection at a time; two requests that use
// one at once get an epoch error, as in Kafka.
type fetchSessions struct {
	mu       sync.Mutex // guards everything below and every session's fields
	byID     map[int32]*fetchSession
	slots    int
	parts    int // of all sessions
	partsMax int
	now      func() time.Time
	names    topicNames
}

// topicNames makes a string of a topic's name without allocating, when there is such a topic.
type topicNames func(name []byte) string

// topicName implements topicNames.
func (b *Broker) topicName(name []byte) string {
	if t := b.partitions.TopicByName(name); t != nil {
		return t.Name
	}
	return string(name)
}

// fetchSessionEvictAfter is Kafka's min.incremental.fetch.session.eviction.ms.
const fetchSessionEvictAfter = 2 * time.Minute

type fetchSession struct {
	id    int32
	epoch int32
	busy  bool
	used  time.Time
	parts []*sessionPart // in answering order: who got data goes to the end
	index map[partKey]*sessionPart
}

type partKey struct {
	topic     string
	id        [16]byte
	partition int32
}

// sessionPart is what a client fetches of one partition, and what it was told
// last.
type sessionPart struct {
	topic            string
	topicID          [16]byte
	partition        int32
	leaderEpoch      int32
	offset           int64
	lastFetchedEpoch int32
	maxBytes         int32

	sentHW, sentLogStart int64
	dropped              bool
}

func (p *sessionPart) key() partKey { return partKey{p.topic, p.topicID, p.partition} }

func newSessionPart(f *wire.FetchPartition, topic string) *sessionPart {
	p := new(sessionPart)
	p.begin(f, topic)
	return p
}

func (p *sessionPart) begin(f *wire.FetchPartition, topic string) {
	*p = sessionPart{topic: topic, topicID: f.TopicID, partition: f.Partition, sentHW: -1, sentLogStart: -1}
	p.take(f)
}

func (p *sessionPart) take(f *wire.FetchPartition) {
	p.leaderEpoch, p.offset, p.lastFetchedEpoch, p.maxBytes = f.LeaderEpoch, f.FetchOffset, f.LastFetchedEpoch, f.MaxBytes
}

func (p *sessionPart) sameTopic(q *sessionPart) bool {
	return p.topicID == q.topicID && p.topic == q.topic
}

func newFetchSessions(slots, partsMax int, now func() time.Time, names topicNames) *fetchSessions {
	return &fetchSessions{byID: map[int32]*fetchSession{}, slots: slots, partsMax: partsMax, now: now, names: names}
}

// open reads the partitions of a request and finds or makes its session. It
// fills r.parts, r.session, r.sid and r.full.
func (c *fetchSessions) open(r *fetchRequest, in *wire.FetchReader) int16 {
	switch {
	case r.h.SessionEpoch == -1: // none, or the end of one
		if r.h.SessionID != 0 {
			c.remove(r.h.SessionID)
		}
		r.full = true
		r.readAll(in, c.names, false)
		return 0
	case r.h.SessionEpoch == 0: // a full fetch that asks for a session
		if r.h.SessionID != 0 {
			c.remove(r.h.SessionID)
		}
		r.full = true
		r.readAll(in, c.names, true)
		if len(r.parts) > 0 && in.Err() == nil {
			c.create(r)
		}
		return 0
	default:
		return c.resume(r, in)
	}
}

// readAll fills r.parts from a request that names all of its partitions. Of a partition
// that is named more than once the last is taken, as Kafka does. keep: the parts
// may outlive the request.
func (r *fetchRequest) readAll(in *wire.FetchReader, names topicNames, keep bool) {
	f := &r.named
	ascending := true // within one topic: nothing is named twice
	for in.Next(f) {
		if len(r.parts) > fetchPartitionsMax {
			return // the request is refused
		}
		p := r.newPart(f, names(f.Topic), keep)
		if n := len(r.parts); n > 0 {
			ascending = ascending && r.parts[n-1].sameTopic(p) && r.parts[n-1].partition < p.partition
		}
		r.parts = append(r.parts, fetchPart{sessionPart: p})
	}
	for in.NextForgotten(f) {
		continue
	}
	// A few that are the same do no harm.
	if !ascending && len(r.parts) > fetchFreePartitions {
		r.parts = newestOfEach(r.parts)
	}
}

// newPart takes a part from the request's own ones while it has any.
func (r *fetchRequest) newPart(f *wire.FetchPartition, topic string, keep bool) *sessionPart {
	if n := len(r.parts); !keep && n < len(r.own) {
		p := &r.own[n]
		p.begin(f, topic)
		return p
	}
	return newSessionPart(f, topic)
}

// newestOfEach leaves one part of each partition.
func newestOfEach(parts []fetchPart) []fetchPart {
	place := make(map[partKey]int, len(parts))
	kept := parts[:0]
	for _, p := range parts {
		if i, ok := place[p.key()]; ok {
			kept[i] = p
			continue
		}
		place[p.key()] = len(kept)
		kept = append(kept, p)
	}
	// Not a piece of what was read: that may be a thousand times as large.
	return slices.Clone(kept)
}

// create makes a session of r's partitions when there is a place for it.
func (c *fetchSessions) create(r *fetchRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if len(r.parts) > c.partsMax-c.parts || len(c.byID) >= c.slots && !c.evict(now) {
		return
	}
	s := &fetchSession{epoch: 1, busy: true, used: now, index: make(map[partKey]*sessionPart, len(r.parts))}
	for s.id == 0 || c.byID[s.id] != nil {
		s.id = rand.Int32()
	}
	for i := range r.parts {
		p := r.parts[i].sessionPart
		s.parts = append(s.parts, p)
		s.index[p.key()] = p
	}
	c.byID[s.id] = s
	c.parts += len(s.parts)
	r.session, r.sid = s, s.id
}

// evict removes the session that was not used for the longest time, if it is
// old enough.
func (c *fetchSessions) evict(now time.Time) bool {
	var oldest *fetchSession
	for _, s := range c.byID {
		if !s.busy && (oldest == nil || s.used.Before(oldest.used)) {
			oldest = s
		}
	}
	if oldest == nil || now.Sub(oldest.used) < fetchSessionEvictAfter {
		return false
	}
	c.drop(oldest)
	return true
}

// resume applies an incremental request to its session.
func (c *fetchSessions) resume(r *fetchRequest, in *wire.FetchReader) int16 {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.byID[r.h.SessionID]
	if s == nil {
		return errFetchSessionIDNotFound
	}
	if s.epoch != r.h.SessionEpoch || s.busy {
		return errInvalidFetchSessionEpoch
	}
	s.epoch++
	if s.epoch < 0 {
		s.epoch = 1
	}
	s.busy, s.used = true, c.now()
	f := &r.named
	for in.Next(f) {
		if p := s.index[partKey{c.names(f.Topic), f.TopicID, f.Partition}]; p != nil {
			p.take(f)
			continue
		}
		if c.parts >= c.partsMax || len(s.parts) >= fetchPartitionsMax {
			c.drop(s) // the client asks for all again, and gets it without a session
			return errFetchSessionIDNotFound
		}
		p := newSessionPart(f, c.names(f.Topic))
		s.parts = append(s.parts, p)
		s.index[p.key()] = p
		c.parts++
	}
	forgot := false
	for in.NextForgotten(f) {
		k := partKey{c.names(f.Topic), f.TopicID, f.Partition}
		if p := s.index[k]; p != nil {
			p.dropped, forgot = true, true
			delete(s.index, k)
		}
	}
	if forgot {
		kept := s.parts[:0]
		for _, p := range s.parts {
			if !p.dropped {
				kept = append(kept, p)
			}
		}
		clear(s.parts[len(kept):])
		c.parts -= len(s.parts) - len(kept)
		s.parts = kept
	}
	r.session, r.sid = s, s.id
	for _, p := range s.parts {
		r.parts = append(r.parts, fetchPart{sessionPart: p})
	}
	return 0
}

// finish ends the use of r's session by r: partitions that got data go to the
// end of the order, so that none starves behind a busy one.
func (c *fetchSessions) finish(r *fetchRequest) {
	if r.session == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := r.session
	s.busy = false
	if len(s.parts) != len(r.parts) || len(s.parts) < 2 {
		return
	}
	s.parts = s.parts[:0]
	for i := range r.parts {
		if r.parts[i].out.RecordBytes == 0 {
			s.parts = append(s.parts, r.parts[i].sessionPart)
		}
	}
	for i := range r.parts {
		if r.parts[i].out.RecordBytes > 0 {
			s.parts = append(s.parts, r.parts[i].sessionPart)
		}
	}
}

func (c *fetchSessions) remove(id int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.byID[id]; s != nil {
		c.drop(s)
	}
}

// drop forgets a session. A request that uses it ends as it began.
func (c *fetchSessions) drop(s *fetchSession) {
	delete(c.byID, s.id)
	c.parts -= len(s.parts)
}

// abandon ends the session of a request that turned out to be malformed: how much
// of it was taken over is not known to the client.
func (c *fetchSessions) abandon(r *fetchRequest) {
	if r.session != nil {
		c.remove(r.sid)
	}
}

// count is the number of sessions, for the metrics.
func (c *fetchSessions) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.byID)
}

// resolve finds the partition that a part names.
func (p *fetchPart) resolve(b *Broker, version int16) int16 {
	t := b.partitions.Topic(p.topic)
	if version >= 13 {
		t = b.partitions.TopicByID(p.topicID)
	}
	if t != nil {
		p.part = t.Partition(p.partition)
	}
	if p.part == nil {
		return b.absent(p.topic, p.topicID, version >= 13, p.partition)
	}
	return 0
}

// changed tells whether an incremental answer must name this partition.
func (p *fetchPart) changed() bool {
	return p.out.RecordBytes > 0 || p.out.ErrorCode != 0 || p.out.PreferredReplica >= 0 || p.out.HighWatermark != p.sentHW || p.out.LogStartOffset != p.sentLogStart
}

// sent notes what the client is being told. An error makes the partition come
// again, until it is healthy.
func (p *fetchPart) sent() {
	p.sentHW, p.sentLogStart = p.out.HighWatermark, p.out.LogStartOffset
	if p.out.ErrorCode != 0 {
		p.sentHW = -1
	}
}
