package raft

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
)

// A snapshot is the whole image, sorted, so that equal images have equal bytes:
//
//	magic    8 bytes  "MRIMAGE" and the version: 1 below level 2, else 2, so that every replica that knows the
//	                  level can read it
//	body              see appendImage
//	crc      4 bytes  CRC-32C of everything before it, little endian
const (
	snapshotMagic    = "MRIMAGE"
	snapshotVersion  = 2
	maxSnapshotBytes = 1 << 30
)

// Errors of a snapshot that cannot be used.
var (
	ErrSnapshotDamaged = errors.New("raft: metadata snapshot is damaged")
	ErrSnapshotVersion = errors.New("raft: metadata snapshot was written by a newer version")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encodeSnapshot returns the bytes of an image.
func encodeSnapshot(m *Image) []byte {
	e := encoder{b: make([]byte, 0, 4096+64*m.partitions)}
	e.b = append(e.b, snapshotMagic...)
	e.byte(snapshotVersionOf(m.Level))
	appendImage(&e, m)
	return binary.LittleEndian.AppendUint32(e.b, crc32.Checksum(e.b, castagnoli))
}

// readSnapshot decodes what encodeSnapshot wrote, to the end of r.
func readSnapshot(r io.Reader) (*Image, error) {
	var buf bytes.Buffer // grows with what arrives, whatever any length says
	n, err := buf.ReadFrom(io.LimitReader(r, maxSnapshotBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read metadata snapshot: %w", err)
	}
	if n > maxSnapshotBytes {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrSnapshotDamaged, maxSnapshotBytes)
	}
	return decodeSnapshot(buf.Bytes())
}

func decodeSnapshot(b []byte) (*Image, error) {
	const head, tail = len(snapshotMagic) + 1, 4
	if len(b) < head+tail || string(b[:len(snapshotMagic)]) != snapshotMagic {
		return nil, fmt.Errorf("%w: no header", ErrSnapshotDamaged)
	}
	body := b[:len(b)-tail]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(b[len(body):]) {
		return nil, fmt.Errorf("%w: checksum", ErrSnapshotDamaged)
	}
	v := b[len(snapshotMagic)]
	if v > snapshotVersion {
		return nil, fmt.Errorf("%w: %d", ErrSnapshotVersion, v)
	}
	d := decoder{b: body[head:]}
	m, err := readImage(&d)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSnapshotDamaged, err)
	}
	if v != snapshotVersionOf(m.Level) {
		return nil, fmt.Errorf("%w: version %d of level %d", ErrSnapshotDamaged, v, m.Level)
	}
	return m, nil
}

func snapshotVersionOf(level uint16) byte {
	if level < clusterLevel {
		return 1
	}
	return 2
}

// Hash is equal for equal images: replicas at the same index must agree on it.
func (m *Image) Hash() [32]byte { return sha256.Sum256(encodeSnapshot(m)) }

func appendImage(e *encoder, m *Image) {
	e.uint(m.Index)
	e.uint(uint64(m.Level))
	e.string(m.ClusterID)
	e.int32(m.Controller.NodeID)
	e.uint(m.Controller.Epoch)
	e.int(m.NextProducerID)
	e.int(m.prunedAt)
	v2 := m.Level >= clusterLevel
	if v2 {
		e.uint(m.Controller.Term)
	}
	list(e, m.sortedReplicas(), func(e *encoder, r **Replica) {
		encodeReplica(e, *r)
		if v2 {
			e.string((*r).Addr)
			e.bool((*r).Removed)
		}
	})
	list(e, m.SortedBrokers(), func(e *encoder, b **Broker) { encodeBroker(e, *b, v2) })
	list(e, m.SortedTopics(), func(e *encoder, t **Topic) { encodeTopic(e, *t, v2) })
	list(e, m.SortedConfigs(), func(e *encoder, r *ConfigResource) {
		encodeResource(e, *r)
		e.stringMap(m.Config(*r))
	})
	list(e, m.sortedDeleted(), func(e *encoder, t **DeletedTopic) {
		e.uuid((*t).ID)
		e.string((*t).Name)
		e.int((*t).AtMillis)
	})
}

func readImage(d *decoder) (*Image, error) {
	m := newImage()
	m.Index = d.uint()
	m.Level = d.uint16()
	m.ClusterID = d.string()
	m.Controller = Controller{NodeID: d.int32(), Epoch: d.uint()}
	m.NextProducerID = d.int()
	m.prunedAt = d.int()
	v2 := m.Level >= clusterLevel
	if v2 {
		m.Controller.Term = d.uint()
	}
	for range d.count(18) {
		var r Replica
		decodeReplica(d, &r)
		if v2 {
			r.Addr, r.Removed = d.string(), d.bool()
		}
		m.Replicas[r.ID] = &r
	}
	for range d.count(40) {
		b := decodeBroker(d, v2)
		m.Brokers[b.ID] = b
	}
	for range d.count(20) {
		t := decodeTopic(d, v2)
		if d.bad || m.Topic(t.Name) != nil || m.TopicByID(t.ID) != nil {
			d.fail()
			break
		}
		m.putTopic(t)
	}
	for range d.count(3) {
		r := decodeResource(d)
		c := d.stringMap()
		if d.bad {
			break
		}
		m.putConfig(r, c)
	}
	for range d.count(18) {
		t := &DeletedTopic{ID: d.uuid(), Name: d.string(), AtMillis: d.int()}
		if d.bad {
			break
		}
		m.deleted = m.deleted.with(t.ID, t)
	}
	if err := d.finish(); err != nil {
		return nil, err
	}
	return m, nil
}

func encodeBroker(e *encoder, b *Broker, v2 bool) {
	e.int32(b.ID)
	e.int(b.Epoch)
	e.uuid(b.DirectoryID)
	e.uuid(b.IncarnationID)
	e.string(b.Host)
	e.int32(b.Port)
	e.string(b.Rack)
	e.bool(b.Fenced)
	e.uint(uint64(b.MaxLevel))
	if v2 {
		e.bool(b.ShuttingDown)
		e.bool(b.Draining)
		list(e, b.Listeners, encodeListener)
	}
}

func decodeBroker(d *decoder, v2 bool) *Broker {
	b := &Broker{
		ID: d.int32(), Epoch: d.int(), DirectoryID: d.uuid(), IncarnationID: d.uuid(),
		Host: d.string(), Port: d.int32(), Rack: d.string(), Fenced: d.bool(), MaxLevel: d.uint16(),
	}
	if v2 {
		b.ShuttingDown, b.Draining = d.bool(), d.bool()
		b.Listeners = unlist(d, 3, decodeListener)
	}
	return b
}

func encodeTopic(e *encoder, t *Topic, v2 bool) {
	e.string(t.Name)
	e.uuid(t.ID)
	e.bool(t.Internal)
	list(e, t.Partitions, func(e *encoder, p **Partition) {
		e.int32s((*p).Replicas)
		e.int32s((*p).ISR)
		e.int32s((*p).ELR)
		e.int32((*p).Leader)
		e.int32((*p).LeaderEpoch)
		e.int32((*p).PartitionEpoch)
		e.int32((*p).LastLeader)
		if v2 {
			e.int32s((*p).Adding)
			e.int32s((*p).Removing)
			e.int32((*p).UncleanEpoch)
			e.bool((*p).Recovering)
		}
	})
}

func decodeTopic(d *decoder, v2 bool) *Topic {
	t := &Topic{Name: d.string(), ID: d.uuid(), Internal: d.bool()}
	t.Partitions = unlist(d, 7, func(d *decoder, p **Partition) {
		n := &Partition{Replicas: d.int32s(), ISR: d.int32s(), ELR: d.int32s()}
		n.Leader, n.LeaderEpoch = d.int32(), d.int32()
		n.PartitionEpoch, n.LastLeader = d.int32(), d.int32()
		if v2 {
			n.Adding, n.Removing = d.int32s(), d.int32s()
			n.UncleanEpoch, n.Recovering = d.int32(), d.bool()
		}
		if slices.Equal(n.Replicas, n.ISR) {
			n.ISR = n.Replicas // as addPartitions shares them
		}
		*p = n
	})
	return t
}

func (m *Image) sortedReplicas() []*Replica {
	out := make([]*Replica, 0, len(m.Replicas))
	for _, r := range m.Replicas {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b *Replica) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

func (m *Image) sortedDeleted() []*DeletedTopic {
	out := make([]*DeletedTopic, 0, m.deleted.len)
	m.deleted.each(func(_ UUID, t *DeletedTopic) bool { out = append(out, t); return true })
	slices.SortFunc(out, func(a, b *DeletedTopic) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return out
}
