package main

import (
	"fmt"
	"sync"

	"millrace/tools/numbered"
)

// place is one partition.
type place struct {
	topic     string
	partition int32
}

func (p place) String() string { return fmt.Sprintf("%s/%d", p.topic, p.partition) }

// ledger knows what must stand at which offset. It is safe for concurrent use.
type ledger struct {
	mu         sync.Mutex
	partitions map[place]*page
	acked      int64
	seen       int64
	broken     []error
}

// page is one partition's part: by offset, 0 where nothing is known.
type page struct {
	must  []numbered.ID
	acked []bool // as long as must: whether a producer was told; else only a reader was
	// verified is the offset up to which everything has been read back since the last restart.
	verified int64
}

func newLedger() *ledger { return &ledger{partitions: map[place]*page{}} }

// brokenMax bounds how many broken promises are kept.
const brokenMax = 20

// promise books that a record stands at an offset: the broker acknowledged it, or showed it to a reader.
func (l *ledger) promise(p place, offset int64, i numbered.ID, how string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	pg := l.page(p)
	for int64(len(pg.must)) <= offset {
		pg.must = append(pg.must, 0)
		pg.acked = append(pg.acked, false)
	}
	switch was := pg.must[offset]; {
	case was == 0:
		pg.must[offset] = i
	case was != i:
		l.breaks(fmt.Errorf("%v offset %d: %v was %s, but %v stood there before", p, offset, i, how, was))
	}
	if how == acknowledged {
		pg.acked[offset] = true
		l.acked++
	} else {
		l.seen++
	}
}

// How a record came into the ledger.
const (
	acknowledged = "acknowledged"
	shown        = "shown to a reader"
)

// must is what has to stand at an offset; 0: anything.
func (l *ledger) must(p place, offset int64) numbered.ID {
	l.mu.Lock()
	defer l.mu.Unlock()
	pg := l.page(p)
	if offset >= int64(len(pg.must)) {
		return 0
	}
	return pg.must[offset]
}

// lost describes what is known of the offsets from end on.
func (l *ledger) lost(p place, end int64) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	pg := l.page(p)
	var acked, seen int
	for i := end; i < int64(len(pg.must)); i++ {
		switch {
		case pg.acked[i]:
			acked++
		case pg.must[i] != 0:
			seen++
		}
	}
	return fmt.Sprintf("%d records that were acknowledged and %d that only a reader was shown, the first: %v", acked, seen, pg.must[end])
}

// end is the first offset that nothing is known about.
func (l *ledger) end(p place) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int64(len(l.page(p).must))
}

// breaks books a broken promise; l.mu is held.
func (l *ledger) breaks(err error) {
	if len(l.broken) < brokenMax {
		l.broken = append(l.broken, err)
	}
}

// broke books a broken promise.
func (l *ledger) broke(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.breaks(fmt.Errorf(format, args...))
}

// promisesBroken returns what is broken so far.
func (l *ledger) promisesBroken() []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]error(nil), l.broken...)
}

func (l *ledger) counts() (acked, seen int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked, l.seen
}

// page finds or makes a partition's page; l.mu is held.
func (l *ledger) page(p place) *page {
	pg := l.partitions[p]
	if pg == nil {
		pg = &page{}
		l.partitions[p] = pg
	}
	return pg
}
