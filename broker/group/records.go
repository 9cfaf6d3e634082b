package group

import (
	"encoding/binary"
	"fmt"
)

// The schema of __consumer_offsets (OffsetCommitKey/Value.json and
// GroupMetadataKey/Value.json of Kafka's group coordinator). All versions are read;
// written are those that Kafka 4 writes.
const (
	offsetKeyVersionMax = 1 // 0 and 1 have the same form
	offsetKeyVersion    = 1
	groupKeyVersion     = 2

	offsetValueVersionMax    = 4
	offsetValueVersion       = 3
	offsetValueVersionExpire = 1 // the one version with an expiry of its own
	offsetValueVersionTopic  = 4 // with the topic's id (Kafka 4.1)
	offsetValueTagTopic      = 0
	groupValueVersionMax     = 4
	groupValueVersion        = 3

	// stringBytesMax is what a string of these records can hold (int16 length).
	stringBytesMax = 1<<15 - 1
)

// offsetKey names a committed offset.
type offsetKey struct {
	group, topic string
	partition    int32
}

// offset is a committed offset.
type offset struct {
	offset            int64
	leaderEpoch       int32 // -1: not given
	metadata          string
	commitTimestampMs int64
	expireTimestampMs int64 // -1: by retention
	// topicID tells the topic from a later one of the same name; zero: not known.
	topicID [16]byte
}

// groupRecord is the durable part of a group: what GroupMetadataValue holds.
type groupRecord struct {
	protocolType          string
	generation            int32
	protocol              *string
	leader                *string
	currentStateTimestamp int64 // -1: not known
	members               []memberRecord
}

type memberRecord struct {
	memberID         string
	instanceID       *string
	clientID         string
	clientHost       string
	rebalanceTimeout int32 // milliseconds; -1: as the session timeout
	sessionTimeout   int32 // milliseconds
	subscription     []byte
	assignment       []byte
}

func appendOffsetKey(b []byte, k offsetKey) []byte {
	b = binary.BigEndian.AppendUint16(b, offsetKeyVersion)
	b = appendString(b, k.group)
	b = appendString(b, k.topic)
	return binary.BigEndian.AppendUint32(b, uint32(k.partition))
}

func appendGroupKey(b []byte, group string) []byte {
	b = binary.BigEndian.AppendUint16(b, groupKeyVersion)
	return appendString(b, group)
}

func appendOffsetValue(b []byte, o offset) []byte {
	version := uint16(offsetValueVersion)
	switch {
	case o.expireTimestampMs >= 0:
		version = offsetValueVersionExpire
	case o.topicID != [16]byte{}:
		version = offsetValueVersionTopic
	}
	b = binary.BigEndian.AppendUint16(b, version)
	b = binary.BigEndian.AppendUint64(b, uint64(o.offset))
	if version >= 3 {
		b = binary.BigEndian.AppendUint32(b, uint32(o.leaderEpoch))
	}
	if version == offsetValueVersionTopic {
		b = binary.AppendUvarint(b, uint64(len(o.metadata)+1))
		b = append(b, o.metadata...)
	} else {
		b = appendString(b, o.metadata)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(o.commitTimestampMs))
	switch version {
	case offsetValueVersionExpire:
		b = binary.BigEndian.AppendUint64(b, uint64(o.expireTimestampMs))
	case offsetValueVersionTopic:
		b = append(b, 1, offsetValueTagTopic, byte(len(o.topicID))) // one tagged field
		b = append(b, o.topicID[:]...)
	}
	return b
}

func appendGroupValue(b []byte, g groupRecord) []byte {
	b = binary.BigEndian.AppendUint16(b, groupValueVersion)
	b = appendString(b, g.protocolType)
	b = binary.BigEndian.AppendUint32(b, uint32(g.generation))
	b = appendNullableString(b, g.protocol)
	b = appendNullableString(b, g.leader)
	b = binary.BigEndian.AppendUint64(b, uint64(g.currentStateTimestamp))
	b = binary.BigEndian.AppendUint32(b, uint32(len(g.members)))
	for i := range g.members {
		m := &g.members[i]
		b = appendString(b, m.memberID)
		b = appendNullableString(b, m.instanceID)
		b = appendString(b, m.clientID)
		b = appendString(b, m.clientHost)
		b = binary.BigEndian.AppendUint32(b, uint32(m.rebalanceTimeout))
		b = binary.BigEndian.AppendUint32(b, uint32(m.sessionTimeout))
		b = appendBytes(b, m.subscription)
		b = appendBytes(b, m.assignment)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	if len(s) > stringBytesMax {
		panic(fmt.Sprintf("BUG: string of %d bytes reached a record", len(s)))
	}
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

func appendNullableString(b []byte, s *string) []byte {
	if s == nil {
		return binary.BigEndian.AppendUint16(b, 0xffff)
	}
	return appendString(b, *s)
}

func appendBytes(b, p []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(p)))
	return append(b, p...)
}

// decodeKey reads a record's key: an offsetKey, or a group's id in a groupKey.
func decodeKey(key []byte) (o offsetKey, group string, isOffset bool, err error) {
	r := reader{b: key}
	switch version := r.int16(); {
	case r.bad:
		return o, "", false, fmt.Errorf("%w: key of %d bytes", ErrCorruptRecord, len(key))
	case version >= 0 && version <= offsetKeyVersionMax:
		o = offsetKey{r.string(), r.string(), r.int32()}
		return o, o.group, true, r.done("offset key")
	case version == groupKeyVersion:
		group = r.string()
		return o, group, false, r.done("group key")
	default:
		return o, "", false, fmt.Errorf("%w: key version %d", ErrUnknownRecord, version)
	}
}

func decodeOffsetValue(value []byte) (offset, error) {
	o := offset{leaderEpoch: -1, expireTimestampMs: -1}
	r := reader{b: value}
	version := r.int16()
	if version < 0 || version > offsetValueVersionMax {
		return o, fmt.Errorf("%w: offset value version %d", ErrCorruptRecord, version)
	}
	r.flexible = version >= 4
	o.offset = r.int64()
	if version >= 3 {
		o.leaderEpoch = r.int32()
	}
	o.metadata = r.string()
	o.commitTimestampMs = r.int64()
	if version == 1 {
		o.expireTimestampMs = r.int64()
	}
	r.tags(func(tag int, field []byte) {
		if tag == offsetValueTagTopic {
			r.bad = r.bad || copy(o.topicID[:], field) != len(field) || len(field) != len(o.topicID)
		}
	})
	return o, r.done("offset value")
}

func decodeGroupValue(value []byte) (groupRecord, error) {
	g := groupRecord{currentStateTimestamp: -1}
	r := reader{b: value}
	version := r.int16()
	if version < 0 || version > groupValueVersionMax {
		return g, fmt.Errorf("%w: group value version %d", ErrCorruptRecord, version)
	}
	r.flexible = version >= 4
	g.protocolType = r.string()
	g.generation = r.int32()
	g.protocol = r.nullableString()
	g.leader = r.nullableString()
	if version >= 2 {
		g.currentStateTimestamp = r.int64()
	}
	for range r.arrayLen() {
		m := memberRecord{rebalanceTimeout: -1}
		m.memberID = r.string()
		if version >= 3 {
			m.instanceID = r.nullableString()
		}
		m.clientID = r.string()
		m.clientHost = r.string()
		if version >= 1 {
			m.rebalanceTimeout = r.int32()
		}
		m.sessionTimeout = r.int32()
		m.subscription = r.bytes()
		m.assignment = r.bytes()
		r.tags(nil)
		if r.bad {
			break
		}
		g.members = append(g.members, m)
	}
	r.tags(nil)
	return g, r.done("group value")
}

// reader walks over bytes that may be damaged. After the first bad field everything
// reads as zero and bad stays set. Nothing is allocated ahead of its bytes.
type reader struct {
	b        []byte
	flexible bool // compact lengths and tagged fields
	bad      bool
}

// done says whether all was read and nothing is left.
func (r *reader) done(what string) error {
	switch {
	case r.bad:
		return fmt.Errorf("%w: %s is cut or has a bad length", ErrCorruptRecord, what)
	case len(r.b) > 0:
		return fmt.Errorf("%w: %s has %d bytes too many", ErrCorruptRecord, what, len(r.b))
	}
	return nil
}

func (r *reader) span(n int) []byte {
	if r.bad || n < 0 || n > len(r.b) {
		r.bad = true
		return nil
	}
	p := r.b[:n:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) int16() int16 {
	if p := r.span(2); p != nil {
		return int16(binary.BigEndian.Uint16(p))
	}
	return 0
}

func (r *reader) int32() int32 {
	if p := r.span(4); p != nil {
		return int32(binary.BigEndian.Uint32(p))
	}
	return 0
}

func (r *reader) int64() int64 {
	if p := r.span(8); p != nil {
		return int64(binary.BigEndian.Uint64(p))
	}
	return 0
}

func (r *reader) uvarint() int {
	v, n := binary.Uvarint(r.b)
	if r.bad || n <= 0 || v > 1<<31-1 {
		r.bad = true
		return 0
	}
	r.b = r.b[n:]
	return int(v)
}

// length reads the length of a string (short) or of bytes and arrays; -1 is null.
func (r *reader) length(short bool) int {
	switch {
	case r.flexible:
		return r.uvarint() - 1
	case short:
		return int(r.int16())
	default:
		return int(r.int32())
	}
}

func (r *reader) string() string {
	n := r.length(true)
	if r.bad || n < 0 || n > stringBytesMax {
		r.bad = true
		return ""
	}
	return string(r.span(n))
}

func (r *reader) nullableString() *string {
	n := r.length(true)
	if r.bad || n < -1 || n > stringBytesMax {
		r.bad = true
		return nil
	}
	if n == -1 {
		return nil
	}
	s := string(r.span(n))
	return &s
}

func (r *reader) bytes() []byte {
	n := r.length(false)
	if r.bad || n < 0 {
		r.bad = true
		return nil
	}
	return append([]byte(nil), r.span(n)...)
}

// arrayLen is the length of an array whose elements are at least one byte each.
func (r *reader) arrayLen() int {
	n := r.length(false)
	if r.bad || n < 0 || n > len(r.b) {
		r.bad = true
		return 0
	}
	return n
}

// tags walks over tagged fields; those that nobody knows are left out.
func (r *reader) tags(field func(tag int, value []byte)) {
	if !r.flexible {
		return
	}
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		tag := r.uvarint()
		if value := r.span(r.uvarint()); !r.bad && field != nil {
			field(tag, value)
		}
	}
}
