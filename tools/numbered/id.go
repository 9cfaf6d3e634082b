// Package numbered makes records that can be recognised: each value names its producer and the producer's number
// for it, and shows whether its bytes have changed.
package numbered

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// ID names a record: its producer and the producer's number for it. It is never 0.
type ID uint64

// New makes an ID. number is below 2^40.
func New(producer int, number uint64) ID { return ID(uint64(producer+1)<<40 | number) }

// Producer is the producer.
func (i ID) Producer() int { return int(i>>40) - 1 }

// Number is the producer's number for it.
func (i ID) Number() uint64 { return uint64(i) & (1<<40 - 1) }

func (i ID) String() string { return fmt.Sprintf("producer %d record %d", i.Producer(), i.Number()) }

// Header is the length of the shortest value. A value is: ID (8 bytes), CRC-32C of the rest (4), filler. Big endian.
const Header = 12

// Put fills a value of at least Header bytes.
func Put(v []byte, i ID) {
	binary.BigEndian.PutUint64(v, uint64(i))
	x := uint64(i) * 0x9e3779b97f4a7c15 // filler that follows from the ID, so that no two records are alike
	for at := Header; at < len(v); at += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		var word [8]byte
		binary.LittleEndian.PutUint64(word[:], x)
		copy(v[at:], word[:])
	}
	binary.BigEndian.PutUint32(v[8:], crc32.Checksum(v[Header:], castagnoli))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Parse returns the ID of a value, and an error when its bytes are not those that Put wrote.
func Parse(v []byte) (ID, error) {
	if len(v) < Header {
		return 0, fmt.Errorf("a value of %d bytes", len(v))
	}
	i := ID(binary.BigEndian.Uint64(v))
	if binary.BigEndian.Uint32(v[8:]) != crc32.Checksum(v[Header:], castagnoli) {
		return i, fmt.Errorf("%v has changed bytes", i)
	}
	return i, nil
}
