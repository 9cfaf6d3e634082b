package batch

import (
	"encoding/binary"
	"fmt"
	"io"
)

// FilterOptions say what Filter does with a batch.
type FilterOptions struct {
	// Keep decides on each record, in offset order. The record is only valid
	// during the call.
	Keep func(*Record) bool
	// RetainEmpty keeps the header of a batch that has lost all its records: its
	// offsets and its producer's last sequence must stay known.
	RetainEmpty bool
	// DeleteHorizonMillis > 0 is written into a batch that has none yet.
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

// Filter appends to dst what is left of the whole batch b after o.Keep: the same
// base offset, last offset delta, offsets of the records, producer fields, leader
// epoch, timestamps and codec. A batch that loses nothing is copied as it is.
// On error dst is returned unchanged.
func Filter(dst, b []byte, o FilterOptions) ([]byte, FilterResult, error) {
	r := getReader()
	defer putReader(r)
	var res FilterResult
	if err := r.Reset(b, o.MaxUncompressed); err != nil {
		return dst, res, err
	}
	h := r.header
	_, hasHorizon := h.DeleteHorizon()
	setHorizon := o.DeleteHorizonMillis > 0 && !hasHorizon
	if setHorizon {
		h.Attributes |= attrDeleteHorizon
		h.BaseTimestamp = o.DeleteHorizonMillis
	}
	var kept []byte
	maxTimestamp := NoTimestamp
	for {
		rec, err := r.Next()
		if err == io.EOF {
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
		timestamp := r.header.BaseTimestamp + rec.TimestampDelta
		maxTimestamp = max(maxTimestamp, timestamp)
		if setHorizon {
			// The base has moved, so every delta does.
			kept = appendMoved(kept, &rec, timestamp-h.BaseTimestamp)
		} else {
			kept = append(kept, rec.raw...)
		}
	}
	res.Changed = res.Removed > 0 || setHorizon
	switch {
	case !res.Changed:
		res.Written = true
		return append(dst, b...), res, nil
	case res.Kept == 0 && !o.RetainEmpty:
		return dst, res, nil
	}
	res.Written = true
	if res.Kept == 0 {
		h.Attributes &^= attrCodecMask
	} else if !h.LogAppendTime() {
		h.MaxTimestamp = maxTimestamp
	}
	h.NumRecords = int32(res.Kept)
	start := len(dst)
	dst = append(dst, make([]byte, HeaderSize)...)
	dst = compress(dst, kept, h.Codec())
	length := len(dst) - start - lengthEnd
	if int64(length) != int64(int32(length)) {
		return dst[:start], FilterResult{}, fmt.Errorf("%w: %d bytes after filtering", ErrLength, length)
	}
	h.Length = int32(length)
	h.put(dst[start:])
	setCRC(dst[start:])
	return dst, res, nil
}

// appendMoved appends rec with another timestamp delta; the rest stays byte by byte.
func appendMoved(dst []byte, rec *Record, timestampDelta int64) []byte {
	b := rec.raw
	_, n := varint32(b)
	attributes := b[n]
	b = b[n+1:]
	_, n = binary.Varint(b)
	b = b[n:] // from the offset delta on
	dst = binary.AppendVarint(dst, int64(1+varintSize(timestampDelta)+len(b)))
	dst = append(dst, attributes)
	dst = binary.AppendVarint(dst, timestampDelta)
	return append(dst, b...)
}
