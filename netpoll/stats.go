package netpoll

import (
	"errors"
	"sync/atomic"
)

// Stats are totals since the start, but for Conns and MemoryUsed, which are as of now.
type Stats struct {
	Conns      int
	MemoryUsed int64 // of Options.TotalMemory

	Accepted      uint64
	RefusedTotal  uint64 // by MaxConns
	RefusedPerIP  uint64 // by MaxConnsPerIP
	RefusedNoFile uint64 // accepts that found no descriptor

	Closed       uint64 // for any reason
	ClosedIdle   uint64
	ClosedFrame  uint64 // half frames not complete in time
	ClosedShed   uint64 // half frames given up for others
	ClosedSlow   uint64 // peers that did not take their answers
	ClosedBroken uint64 // announced a frame that is too large or negative

	Frames   uint64
	BytesIn  uint64
	BytesOut uint64
	Copied   uint64 // bytes of others' memory that a peer did not take in time
	Starved  uint64 // times that a connection was refused memory
	Turns    uint64
}

// counts are a loop's own, since the last turn.
type counts struct {
	accepted, noFile                   uint64
	refused                            [refusalCount]uint64
	gone, idle, frame, shed, slow, bad uint64
	frames, bytesIn, bytesOut          uint64
	copied, starved, turns             uint64
}

// closed counts a connection's end.
func (c *counts) closed(reason error) {
	c.gone++
	var size *FrameSizeError
	switch {
	case errors.Is(reason, ErrIdle):
		c.idle++
	case errors.Is(reason, ErrFrameTimeout):
		c.frame++
	case errors.Is(reason, ErrShed):
		c.shed++
	case errors.Is(reason, ErrSlowReader), errors.Is(reason, ErrWriteTimeout):
		c.slow++
	case errors.As(reason, &size):
		c.bad++
	}
}

// atomicCounts are a loop's totals, published once a turn.
type atomicCounts struct {
	accepted, noFile, refusedTotal, refusedPerIP atomic.Uint64
	gone, idle, frame, shed, slow, bad           atomic.Uint64
	frames, bytesIn, bytesOut                    atomic.Uint64
	copied, starved, turns                       atomic.Uint64
}

func (a *atomicCounts) add(c *counts) {
	for _, f := range [...]struct {
		total *atomic.Uint64
		n     uint64
	}{
		{&a.frames, c.frames},
		{&a.bytesIn, c.bytesIn},
		{&a.bytesOut, c.bytesOut},
		{&a.turns, c.turns},
		{&a.copied, c.copied},
		{&a.starved, c.starved},
		{&a.accepted, c.accepted},
		{&a.noFile, c.noFile},
		{&a.refusedTotal, c.refused[refusedTotal]},
		{&a.refusedPerIP, c.refused[refusedPerIP]},
		{&a.gone, c.gone},
		{&a.idle, c.idle},
		{&a.frame, c.frame},
		{&a.shed, c.shed},
		{&a.slow, c.slow},
		{&a.bad, c.bad},
	} {
		if f.n != 0 {
			f.total.Add(f.n)
		}
	}
	*c = counts{}
}

// Stats sums up over the loops. Any thread.
func (s *Server) Stats() Stats {
	out := Stats{Conns: s.limits.total(), MemoryUsed: s.memory.used.Load()}
	for _, l := range s.loops {
		a := &l.stats
		out.Accepted += a.accepted.Load()
		out.RefusedTotal += a.refusedTotal.Load()
		out.RefusedPerIP += a.refusedPerIP.Load()
		out.RefusedNoFile += a.noFile.Load()
		out.Closed += a.gone.Load()
		out.ClosedIdle += a.idle.Load()
		out.ClosedFrame += a.frame.Load()
		out.ClosedShed += a.shed.Load()
		out.ClosedSlow += a.slow.Load()
		out.ClosedBroken += a.bad.Load()
		out.Frames += a.frames.Load()
		out.BytesIn += a.bytesIn.Load()
		out.BytesOut += a.bytesOut.Load()
		out.Copied += a.copied.Load()
		out.Starved += a.starved.Load()
		out.Turns += a.turns.Load()
	}
	return out
}
