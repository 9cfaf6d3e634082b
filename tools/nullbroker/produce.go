package main

import (
	"millrace/broker/wire"
	"millrace/engine/batch"
	"millrace/netpoll"
)

// Kafka's error codes that can be answered here.
const (
	errCorruptMessage          = 2
	errUnknownTopicOrPartition = 3
	errTopicAlreadyExists      = 36
	errInvalidPartitions       = 37
	errUnknownTopicID          = 100

	partitionsMax = 100_000
)

// produce walks a request twice: once to count what a response says before its
// elements, and once to write it. Nothing is allocated.
func (b *broker) produce(c *netpoll.Conn, h wire.RequestHeader, body []byte) {
	s := c.Data.(*session)
	head, err := s.produce.Reset(body, h.Version)
	if err != nil {
		c.Close(err)
		return
	}
	flexible := wire.ProduceFlexible(h.Version)
	slot := c.Begin()
	var j *journal
	if b.journal != nil {
		j = b.journal[c.Loop().Index()]
	}
	out := c.Loop().NewResponse()
	buf := wire.AppendResponseHeader(out.Buffer(), h.CorrelationID, flexible)
	buf = wire.AppendCount(buf, flexible, head.TopicCount)

	// The results of a topic are gathered first: their number stands before them.
	results := s.body[:0]
	var t *topic
	var name []byte
	var id [16]byte
	count, begun := 0, false
	endTopic := func() {
		if begun {
			buf = appendTopic(buf, h.Version, name, id, count)
			buf = append(buf, results...)
			buf = wire.AppendNoTags(buf, flexible)
		}
	}
	var p wire.ProducePartition
	for s.produce.Next(&p) {
		if p.FirstPart {
			endTopic()
			name, id, count, begun, results = p.Topic, p.TopicID, 0, true, results[:0]
			if h.Version >= 13 {
				t = b.topics.Load().byID[id]
			} else {
				t = b.topic(name)
			}
		}
		res := wire.ProduceResult{Partition: p.Partition, BaseOffset: -1, LogAppendMillis: -1, LeaderID: -1}
		switch {
		case t == nil:
			res.ErrorCode = errUnknownTopicID
		case p.Partition < 0 || int(p.Partition) >= len(t.next):
			res.ErrorCode = errUnknownTopicOrPartition
		default:
			res.BaseOffset, res.ErrorCode = b.take(t, &p)
			if j != nil && res.ErrorCode == 0 {
				j.add(p.Records)
			}
		}
		count++
		results = wire.AppendProduceResult(results, h.Version, &res)
	}
	endTopic()
	s.body = results
	if err := s.produce.Err(); err != nil {
		out.Drop()
		c.Close(err)
		return
	}
	out.Commit(wire.AppendProduceEnd(buf, h.Version, 0, nil))
	switch {
	case head.Acks == 0:
		out.Drop()
		c.Skip(slot)
	case j != nil:
		j.reply(c, slot, out)
	default:
		c.Reply(slot, out)
	}
}

// take walks the batches of one partition and gives them their offsets.
func (b *broker) take(t *topic, p *wire.ProducePartition) (base int64, code int16) {
	records := int64(0)
	batches := int64(0)
	for rest := p.Records; len(rest) > 0; {
		h, err := batch.ParseHeader(rest)
		if err != nil || h.Size() > len(rest) {
			return -1, errCorruptMessage
		}
		records += int64(h.LastOffsetDelta) + 1
		batches++
		rest = rest[h.Size():]
	}
	b.batches.Add(batches)
	b.records.Add(records)
	return t.next[p.Partition].Add(records) - records, 0
}

func appendTopic(b []byte, version int16, name []byte, id [16]byte, partitions int) []byte {
	flexible := wire.ProduceFlexible(version)
	switch {
	case version >= 13:
		b = append(b, id[:]...)
	case flexible:
		b = wire.AppendUvarint(b, uint32(len(name)+1))
		b = append(b, name...)
	default:
		b = wire.AppendInt16(b, int16(len(name)))
		b = append(b, name...)
	}
	return wire.AppendCount(b, flexible, partitions)
}
