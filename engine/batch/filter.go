package batch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// FilterOptions say what Filter does with a batch.
type FilterOptions struct {
	// Keep decides on each record, in offset order. The record is only valid
	// during the call.
	Keep func(*Record) bool
	// RetainEmpty keeps the header of a batch that has lost all its records: its
	// offsets and its producer's last sequence must stay known.
	RetainEmpty bool
	// DeleteHorizonMillis > 0 is written into a batch that has no delete horizon yet, if it
	// is a control batch or a tombstone stays in it.
	DeleteHorizonMillis int64
	// MaxUncompressed bounds the memory for the records, in bytes.
	MaxUncompressed int
}

// FilterResult says what Filter did.
type FilterResult struct {
	Kept, Removed int  // records
	Changed       bool // the batch is not what it was
	Written       bool // false: nothing of the batch is left
}

// keptRecord is a record that stays, as it stands in the batch.
type keptRecord struct {
	raw            []byte
	timestampDelta int64
}

var keptRecords = sync.Pool{New: func() any { return new([]keptRecord) }}

// Filter appends to dst what is left of the whole batch b after o.Keep: the same
// base offset, last offset delta, offsets of the records, producer fields, leader
// epoch, timestamps and codec. A batch that loses nothing is copied as it is.
// On error dst is returned unchanged.
func Filter(dst, b []byte, o FilterOptions) ([]byte, FilterResult, error) {
	r := getReader()
	defer putReader(r)
	if err := r.Reset(b, o.MaxUncompressed); err != nil {
		return dst, FilterResult{}, err
	}
	pooled := keptRecords.Get().(*[]keptRecord)
	kept := (*pooled)[:0]
	defer func() {
		clear(kept)
		*pooled = kept[:0]
		keptRecords.Put(pooled)
	}()
	var res FilterResult
	tombstone := false
	for {
		rec, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return dst, FilterResult{}, err
		}
		if !o.Keep(&rec) {
			res.Removed++
			continue
		}
		res.Kept++
		tombstone = tombstone || rec.IsTombstone()
		kept = append(kept, keptRecord{raw: rec.raw, timestampDelta: rec.TimestampDelta})
	}
	_, hasHorizon := r.header.DeleteHorizon()
	setHorizon := o.DeleteHorizonMillis > 0 && !hasHorizon && res.Kept > 0 && (tombstone || r.header.IsControl())
	res.Changed = res.Removed > 0 || setHorizon
	switch {
	case !res.Changed && (res.Kept > 0 || o.RetainEmpty):
		res.Written = true
		return append(dst, b...), res, nil
	case res.Kept == 0 && !o.RetainEmpty:
		res.Changed = true
		return dst, res, nil
	}
	res.Written = true
	return rewrite(dst, r.header, kept, setHorizon, o.DeleteHorizonMillis, res)
}

// rewrite appends a batch like h with the kept records.
func rewrite(dst []byte, h Header, kept []keptRecord, setHorizon bool, horizonMillis int64, res FilterResult) ([]byte, FilterResult, error) {
	oldBase := h.BaseTimestamp
	if setHorizon {
		h.Attributes |= attrDeleteHorizon
		h.BaseTimestamp = horizonMillis
	}
	var records []byte
	maxTimestamp := NoTimestamp
	for i := range kept {
		k := &kept[i]
		timestamp := oldBase + k.timestampDelta
		maxTimestamp = max(maxTimestamp, timestamp)
		if setHorizon {
			// The base has moved, so every delta does.
			records = appendMoved(records, k.raw, timestamp-h.BaseTimestamp)
		} else {
			records = append(records, k.raw...)
		}
	}
	if len(kept) == 0 {
		h.Attributes &^= attrCodecMask // there is nothing to compress
	} else if !h.LogAppendTime() {
		h.MaxTimestamp = maxTimestamp
	}
	h.NumRecords = int32(len(kept))
	start := len(dst)
	dst = append(dst, make([]byte, HeaderSize)...)
	dst = compress(dst, records, h.Codec())
	length := len(dst) - start - lengthEnd
	if int64(length) != int64(int32(length)) {
		return dst[:start], FilterResult{}, fmt.Errorf("%w: %d bytes after filtering", ErrLength, length)
	}
	h.Length = int32(length)
	h.put(dst[start:])
	setCRC(dst[start:])
	return dst, res, nil
}

// appendMoved appends a record with another timestamp delta; the rest stays byte by byte.
func appendMoved(dst, raw []byte, timestampDelta int64) []byte {
	_, n := varint32(raw)
	attributes := raw[n]
	raw = raw[n+1:]
	_, n = binary.Varint(raw)
	raw = raw[n:] // from the offset delta on
	dst = binary.AppendVarint(dst, int64(1+varintSize(timestampDelta)+len(raw)))
	dst = append(dst, attributes)
	dst = binary.AppendVarint(dst, timestampDelta)
	return append(dst, raw...)
}
