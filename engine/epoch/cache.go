package epoch

import (
	"slices"
	"sort"
)

// Undefined is Kafka's answer for an epoch or its end that the log does not know.
const (
	UndefinedEpoch  int32 = -1
	UndefinedOffset int64 = -1
)

// Entry says that the records from StartOffset on are of Epoch, until the next entry.
type Entry struct {
	Epoch       int32
	StartOffset int64
}

// Cache is the leader epoch cache of one log. The zero value is empty.
type Cache struct {
	entries []Entry // Epoch and StartOffset grow strictly
}

// Assign notes that epoch begins at start. It changes nothing if the epoch is
// already the newest one and began no later. Entries that contradict the
// new one (same or higher epoch, same or higher offset) go.
func (c *Cache) Assign(epoch int32, start int64) {
	if n := len(c.entries); n > 0 && c.entries[n-1].Epoch == epoch && c.entries[n-1].StartOffset <= start {
		return
	}
	if epoch < 0 || start < 0 {
		return // batches of old clients and tests carry -1: there is no epoch to remember
	}
	n := len(c.entries)
	for n > 0 && (c.entries[n-1].Epoch >= epoch || c.entries[n-1].StartOffset >= start) {
		n--
	}
	c.entries = append(c.entries[:n], Entry{epoch, start})
}

// Latest is the newest entry.
func (c *Cache) Latest() (Entry, bool) {
	if len(c.entries) == 0 {
		return Entry{UndefinedEpoch, UndefinedOffset}, false
	}
	return c.entries[len(c.entries)-1], true
}

// Earliest is the oldest entry.
func (c *Cache) Earliest() (Entry, bool) {
	if len(c.entries) == 0 {
		return Entry{UndefinedEpoch, UndefinedOffset}, false
	}
	return c.entries[0], true
}

// EndOffsetFor answers OffsetForLeaderEpoch as Kafka does: the largest known epoch
// that is not above the asked one, and the offset where it ends. The newest epoch
// ends at logEnd. An epoch below all known ones is answered with itself and the start of the
// oldest; an epoch above all known ones with Undefined.
func (c *Cache) EndOffsetFor(epoch int32, logEnd int64) (int32, int64) {
	n := len(c.entries)
	if n == 0 || epoch < 0 || epoch > c.entries[n-1].Epoch {
		return UndefinedEpoch, UndefinedOffset
	}
	if epoch == c.entries[n-1].Epoch {
		return epoch, logEnd
	}
	higher := sort.Search(n, func(i int) bool { return c.entries[i].Epoch > epoch })
	if higher == 0 {
		return epoch, c.entries[0].StartOffset
	}
	return c.entries[higher-1].Epoch, c.entries[higher].StartOffset
}

// EpochAt is the epoch of the record at offset; false if offset lies before the
// first known epoch. The caller knows where the log ends.
func (c *Cache) EpochAt(offset int64) (int32, bool) {
	n := sort.Search(len(c.entries), func(i int) bool { return c.entries[i].StartOffset > offset })
	if n == 0 {
		return UndefinedEpoch, false
	}
	return c.entries[n-1].Epoch, true
}

// TruncateFromEnd removes the epochs that begin at end or above: the log now ends
// there.
func (c *Cache) TruncateFromEnd(end int64) {
	n := len(c.entries)
	for n > 0 && c.entries[n-1].StartOffset >= end {
		n--
	}
	c.entries = c.entries[:n]
}

// TruncateFromStart lets the cache begin at start, the log's new first offset. The epoch
// that start lies in now begins there.
func (c *Cache) TruncateFromStart(start int64) {
	n := sort.Search(len(c.entries), func(i int) bool { return c.entries[i].StartOffset > start })
	if n == 0 {
		return
	}
	c.entries = slices.Delete(c.entries, 0, n-1)
	c.entries[0].StartOffset = start
}

// Clear forgets everything.
func (c *Cache) Clear() { c.entries = nil }

// Entries returns a copy of all entries, oldest first.
func (c *Cache) Entries() []Entry { return slices.Clone(c.entries) }

// Clone returns a cache of its own with the same entries.
func (c *Cache) Clone() Cache { return Cache{slices.Clone(c.entries)} }

// Len is the number of entries.
func (c *Cache) Len() int { return len(c.entries) }
