package epoch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// ErrCorrupt is wrapped by every error of Decode.
var ErrCorrupt = errors.New("epoch: damaged section")

// version is the first byte of the encoded cache. Part of the checkpoint format.
const version = 1

// AppendTo encodes the cache behind b.
func (c *Cache) AppendTo(b []byte) []byte {
	b = append(b, version)
	b = binary.AppendUvarint(b, uint64(len(c.entries)))
	var last Entry
	for _, e := range c.entries {
		b = binary.AppendUvarint(b, uint64(e.Epoch-last.Epoch))
		b = binary.AppendUvarint(b, uint64(e.StartOffset-last.StartOffset))
		last = e
	}
	return b
}

// Decode decodes what AppendTo wrote, all of b.
func Decode(b []byte) (Cache, error) {
	if len(b) == 0 || b[0] != version {
		return Cache{}, fmt.Errorf("%w: not version %d", ErrCorrupt, version)
	}
	b = b[1:]
	count, n := binary.Uvarint(b)
	if n <= 0 || count > uint64(len(b)-n)/2 {
		return Cache{}, fmt.Errorf("%w: impossible number of entries", ErrCorrupt)
	}
	b = b[n:]
	var c Cache
	var last Entry
	for i := range count {
		epoch, n := binary.Uvarint(b)
		if n <= 0 {
			return Cache{}, fmt.Errorf("%w: cut short", ErrCorrupt)
		}
		b = b[n:]
		start, n := binary.Uvarint(b)
		if n <= 0 {
			return Cache{}, fmt.Errorf("%w: cut short", ErrCorrupt)
		}
		b = b[n:]
		if epoch > uint64(math.MaxInt32-last.Epoch) || start > uint64(math.MaxInt64-last.StartOffset) || i > 0 && (epoch == 0 || start == 0) {
			return Cache{}, fmt.Errorf("%w: entry %d does not follow the last one", ErrCorrupt, i)
		}
		last = Entry{last.Epoch + int32(epoch), last.StartOffset + int64(start)}
		if c.entries == nil {
			c.entries = make([]Entry, 0, count)
		}
		c.entries = append(c.entries, last)
	}
	if len(b) != 0 {
		return Cache{}, fmt.Errorf("%w: %d bytes left over", ErrCorrupt, len(b))
	}
	return c, nil
}
