package engine

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"millrace/engine/batch"
)

// TestReadInAnOffsetHoleGoesOnBehindIt: from every offset between start and end a read returns the batch that holds it, or the next
// one, or nothing at the end; wherever the batches and the holes lie.
func TestReadInAnOffsetHoleGoesOnBehindIt(t *testing.T) {
	for seed := uint64(1); seed <= 40 && !t.Failed(); seed++ {
		s := newCompactionSim(t, seed)
		s.cfg.Compact, s.cfg.SegmentBytes = false, 6<<10
		s.l.SetConfig(s.cfg)
		h := holeLog{t: t, s: s, seed: seed, rng: rand.New(rand.NewPCG(seed, 5))}
		for range 40 {
			h.step()
			h.readEverywhere()
		}
		s.disk.Kill()
		s.e.release()
	}
}

// holeLog is a log and the batches that it should have.
type holeLog struct {
	t       *testing.T
	s       *compactionSim
	seed    uint64
	rng     *rand.Rand
	batches []modelBatch
	end     int64
	done    []string
}

func (h *holeLog) step() {
	switch n := h.rng.IntN(10); {
	case n < 4:
		h.given()
	case n < 6:
		h.truncate()
	case n < 8:
		h.done = append(h.done, "pump")
		h.s.pump()
	default:
		h.done = append(h.done, "pump and evict")
		h.s.pump()
		h.s.evict()
	}
}

// given appends batches as a follower does, with holes between them.
func (h *holeLog) given() {
	var all []byte
	for i := range 1 + h.rng.IntN(4) {
		if i > 0 && h.rng.IntN(2) == 0 {
			h.end += 1 + h.rng.Int64N(4)
		}
		b := batch.NewBuilder(h.end, 0)
		count := 1 + h.rng.IntN(5)
		for range count {
			b.Append(0, []byte("k"), make([]byte, h.rng.IntN(400)), nil)
		}
		raw := b.Build()
		h.batches = append(h.batches, modelBatch{h.end, h.end + int64(count), raw})
		h.end += int64(count)
		all = append(all, raw...)
	}
	if err := h.s.l.AppendAt(h.s.l.AppendedEnd(), all, -1); err != nil {
		h.t.Fatal(err)
	}
	h.done = append(h.done, fmt.Sprint("append up to ", h.end))
}

// truncate to any offset, also within a batch.
func (h *holeLog) truncate() {
	if h.end == 0 {
		return
	}
	h.end -= h.rng.Int64N(min(h.end, 12)) + 1
	if err := h.s.l.Truncate(h.end, 0); err != nil {
		h.t.Fatal(err)
	}
	for n := len(h.batches); n > 0 && h.batches[n-1].next > h.end; n-- {
		h.batches = h.batches[:n-1]
	}
	h.done = append(h.done, fmt.Sprint("truncate to ", h.end))
}

func (h *holeLog) readEverywhere() {
	l := h.s.l
	if l.AppendedEnd() != h.end {
		h.t.Fatalf("seed %d: the end is %d, should be %d", h.seed, l.AppendedEnd(), h.end)
	}
	i := 0
	for at := int64(0); at <= h.end; at++ {
		for i < len(h.batches) && h.batches[i].next <= at {
			i++
		}
		for _, upTo := range []int64{h.end, at + h.rng.Int64N(h.end-at+1)} {
			spans, info, err := l.Read(ReadRequest{Offset: at, UpTo: upTo, MaxBytes: 1, MinOne: true, MayBlock: true}, nil)
			if err != nil {
				h.t.Fatalf("seed %d: read at %d of %d: %v\n%v", h.seed, at, h.end, err, h.done)
			}
			got := spanBytes(h.t, spans)
			if i == len(h.batches) || h.batches[i].next > upTo {
				if len(got) > 0 || info.NextOffset != at {
					h.t.Fatalf("seed %d: read at %d of %d, up to %d: %d bytes, next %d; there is nothing\n%v", h.seed, at, h.end, upTo, len(got), info.NextOffset, h.done)
				}
				continue
			}
			if want := h.batches[i]; !bytes.Equal(got, want.raw) || info.NextOffset < want.next || info.NextOffset > upTo {
				h.t.Fatalf("seed %d: read at %d of %d, up to %d: %d bytes, next %d; the batch is %d to %d\n%v", h.seed, at, h.end, upTo, len(got), info.NextOffset, want.base, want.next, h.done)
			}
		}
	}
}
