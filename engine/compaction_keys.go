package engine

import (
	"crypto/sha256"
	"encoding/binary"
)

// compactionMapBytes bounds the memory for keys of one pass: about a million keys. With
// more, a pass cleans the log up to where the map was full and the next one goes on there.
const compactionMapBytes = 32 << 20

// keyOffsets maps keys to the newest offset that they were seen at. A key is known by 128
// bits of its SHA-256: two keys that collide would lose records, and producers choose keys.
type keyOffsets struct {
	bytesMax int
	slots    []keySlot // open addressing, a power of two
	count    int
}

type keySlot struct {
	hash  [2]uint64
	after int64 // offset + 1; 0: empty
}

const (
	keySlotBytes  = 24
	keySlotsFirst = 1 << 10
)

// reset forgets all keys and keeps the memory.
func (m *keyOffsets) reset() {
	clear(m.slots)
	m.count = 0
}

// free gives the memory back.
func (m *keyOffsets) free() { m.slots, m.count = nil, 0 }

// full reports that no more batches should be added. One batch may go beyond.
func (m *keyOffsets) full() bool {
	return m.count >= m.bytesMax/keySlotBytes/4*3
}

// put notes that key has a record at offset. Offsets grow.
func (m *keyOffsets) put(key []byte, offset int64) {
	if m.count >= len(m.slots)/4*3 {
		m.grow()
	}
	h := hashKey(key)
	s := m.find(h)
	if s.after == 0 {
		s.hash = h
		m.count++
	}
	s.after = offset + 1
}

// get returns the newest offset of key, -1 if it was not seen.
func (m *keyOffsets) get(key []byte) int64 {
	if m.count == 0 {
		return -1
	}
	return m.find(hashKey(key)).after - 1
}

func (m *keyOffsets) find(h [2]uint64) *keySlot {
	mask := uint64(len(m.slots) - 1)
	for i := h[0] & mask; ; i = (i + 1) & mask {
		if s := &m.slots[i]; s.after == 0 || s.hash == h {
			return s
		}
	}
}

func (m *keyOffsets) grow() {
	old := m.slots
	m.slots = make([]keySlot, max(keySlotsFirst, 2*len(old)))
	for i := range old {
		if old[i].after != 0 {
			*m.find(old[i].hash) = old[i]
		}
	}
}

func hashKey(key []byte) [2]uint64 {
	sum := sha256.Sum256(key)
	return [2]uint64{binary.LittleEndian.Uint64(sum[:]), binary.LittleEndian.Uint64(sum[8:])}
}
