package group

import (
	"math"
	"unicode/utf8"
)

// PartitionFor says which partition of __consumer_offsets keeps a group: Java's
// hash of its id, as in Kafka, so that a log written by Kafka is found again.
func PartitionFor(groupID string, partitions int32) int32 {
	h := javaHash(groupID)
	switch { // Kafka's Utils.abs, not the mask that its producers use
	case h == math.MinInt32:
		h = 0
	case h < 0:
		h = -h
	}
	return h % partitions
}

// javaHash is java.lang.String.hashCode: over UTF-16 code units.
func javaHash(s string) int32 {
	var h int32
	for _, r := range s {
		if r >= 0x10000 {
			r -= 0x10000
			h = 31*h + (0xd800 + r>>10)
			h = 31*h + (0xdc00 + r&0x3ff)
			continue
		}
		h = 31*h + r
	}
	return h
}

// utf16Len counts a string as Java's String.length does.
func utf16Len(s string) int {
	n := utf8.RuneCountInString(s)
	for _, r := range s {
		if r >= 0x10000 {
			n++
		}
	}
	return n
}
