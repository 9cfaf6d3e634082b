package engine

import (
	"sync"
	"sync/atomic"
)

// movers moves many logs out of the ring, several at a time: each of their writes waits for the device, and with a thousand logs
// one after the other would be slower than what comes in. One goroutine at a time uses it.
type movers struct {
	s   *Shard
	all []*mover // made when they are first needed
}

const (
	moversMax    = 4
	moverLogsMin = 8 // logs that are worth another mover
)

func newMovers(s *Shard) *movers { return &movers{s: s, all: []*mover{newMover(s)}} }

// first is for a log alone.
func (m *movers) first() *mover { return m.all[0] }

// move moves everything durable of the logs. begin, if not nil, is called for each just before. It returns how many were begun,
// in order, and the first error.
func (m *movers) move(logs []*Log, begin func(*Log)) (int, error) {
	n := 1
	if m.s.e.o.syncWorkers > 1 {
		n = min(moversMax, max(1, len(logs)/moverLogsMin))
	}
	for len(m.all) < n {
		m.all = append(m.all, newMover(m.s))
	}
	var next atomic.Int64
	var first atomic.Pointer[error]
	work := func(m *mover) {
		for first.Load() == nil {
			i := int(next.Add(1)) - 1
			if i >= len(logs) {
				return
			}
			if begin != nil {
				begin(logs[i])
			}
			if err := m.moveLog(logs[i]); err != nil {
				first.CompareAndSwap(nil, &err)
			}
		}
	}
	var group sync.WaitGroup
	for _, more := range m.all[1:n] {
		group.Go(func() { work(more) })
	}
	work(m.first())
	group.Wait()
	if p := first.Load(); p != nil {
		return min(int(next.Load()), len(logs)), *p
	}
	return len(logs), nil
}
