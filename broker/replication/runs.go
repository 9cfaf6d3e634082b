package replication

import (
	"encoding/binary"
	"fmt"

	"millrace/engine/batch"
)

// A frame of runs: a bulk frame (transport.WriteBulk) whose head is
//
//	count                                        of runs
//	stream start end logStart hw epoch length    of each run
//	batches                                      of the runs whose epoch is epochChecked, one after the other
//
// and whose bulk is the batches of the other runs. The head is under the frame's checksum, the bulk is not: most of a batch is
// under the batch's own checksum, but not its base offset, its length, its leader epoch and its magic. So the batches of a
// run in the bulk are of one epoch, which the head gives, and without offset holes from start to end: then
// every uncovered byte is known to the receiver (prove). Runs for which the leader cannot promise that travel in the head.
const (
	runBytes        = 256 << 10 // of one run on the tail stream
	catchUpRunBytes = 1 << 20   // of one run on the catch-up stream
	frameBytes      = 1 << 20   // after which a frame takes no more runs
	// maxFrameBytes bounds a frame: its last run may be one batch that is larger than the frame should be.
	maxFrameBytes = frameBytes + catchUpRunBytes + 16<<20
	// windowBytes is what may be under way on a connection and not acknowledged as received.
	windowBytes = 8 << 20
	maxRuns     = 4096 // of one frame
)

// epochChecked as a run's epoch: its batches are under the frame's checksum.
const epochChecked int32 = -1

// runHeader describes a run in the head of its frame.
type runHeader struct {
	stream     uint64
	start, end int64 // of the offsets; holes may lie between batches, before the first and behind the last
	logStart   int64
	hw         int64
	epoch      int32 // of all its batches, or epochChecked
	length     int   // bytes of its batches
}

// minRunHeader is the fewest bytes that a run header can have.
const minRunHeader = 7

func appendRunHeader(b []byte, h *runHeader) []byte {
	b = binary.AppendUvarint(b, h.stream)
	b = binary.AppendVarint(b, h.start)
	b = binary.AppendUvarint(b, uint64(h.end-h.start))
	b = binary.AppendVarint(b, h.logStart)
	b = binary.AppendVarint(b, h.hw)
	b = binary.AppendVarint(b, int64(h.epoch))
	return binary.AppendUvarint(b, uint64(h.length))
}

func (d *decoder) runHeader() (h runHeader) {
	h.stream = d.uint()
	h.start = d.offset()
	span := d.uint()
	h.end = h.start + int64(span)
	h.logStart = d.offset()
	h.hw = d.int()
	h.epoch = d.int32()
	h.length = d.size(maxFrameBytes)
	if span == 0 || h.end <= h.start || h.epoch < epochChecked {
		d.fail()
	}
	return h
}

// decodeRuns splits a frame of runs and calls f for each. runs is memory for the headers.
func decodeRuns(head, bulk []byte, runs *[]runHeader, f func(h *runHeader, batches []byte) error) error {
	d := decoder{b: head}
	count := d.uint()
	if d.bad || count > maxRuns || count*minRunHeader > uint64(len(d.b)) {
		return fmt.Errorf("%w: %d runs in a head of %d bytes", errMalformed, count, len(head))
	}
	list := (*runs)[:0]
	checked, open := 0, 0
	for range count {
		h := d.runHeader()
		if h.epoch == epochChecked {
			checked += h.length
		} else {
			open += h.length
		}
		list = append(list, h)
	}
	*runs = list
	if d.bad || checked != len(d.b) || open != len(bulk) {
		return fmt.Errorf("%w: %d runs of %d and %d bytes in %d and %d", errMalformed, count, checked, open, len(d.b), len(bulk))
	}
	for i := range list {
		from := &bulk
		if list[i].epoch == epochChecked {
			from = &d.b
		}
		batches := (*from)[:list[i].length:list[i].length]
		*from = (*from)[list[i].length:]
		if err := f(&list[i], batches); err != nil {
			return err
		}
	}
	return nil
}

// proof is what a walk over a run's batches found.
type proof uint8

const (
	proven   proof = iota
	unproven       // holes or several epochs: they can be right, but nothing here says so
	damaged        // these cannot be whole batches
)

// prove walks the batches of a run and returns the offset after the last one. For those outside the frame's checksum it
// holds every byte that the batches' own checksums do not cover against the header. The batches' checksums are
// for who appends them.
func prove(h *runHeader, batches []byte) (next int64, p proof) {
	next = h.start
	for len(batches) > 0 {
		b, err := batch.ParseHeader(batches)
		if err != nil || b.Size() > len(batches) {
			return next, damaged
		}
		if h.epoch != epochChecked && (b.LeaderEpoch != h.epoch || b.BaseOffset != next) {
			return next, unproven
		}
		if b.BaseOffset < next || b.NextOffset() <= b.BaseOffset || b.NextOffset() > h.end {
			return next, damaged
		}
		next = b.NextOffset()
		batches = batches[b.Size():]
	}
	if h.epoch != epochChecked && next != h.end {
		return next, unproven
	}
	return next, proven
}
