package replication

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"millrace/raft/transport"
)

// machine is a Sender or a Receiver, as who writes for it sees it.
type machine interface {
	Next(now time.Time) (f *Frame, again time.Time)
	TryNext(now time.Time) (f *Frame, again time.Time, ok bool)
	// takeQuiet reports whether there is news that nobody was woken for; rouse wakes the writer after all.
	takeQuiet() bool
	rouse()
}

// outlet writes what a machine has to say to its connection. A goroutine waits for it; and the driver thread of a
// shard, which is where batches come from and become durable, writes at the end of its turn by itself: to wake the
// goroutine costs more than the write. Whoever is at the machine holds mu until its frame is released.
type outlet struct {
	r       *Replication
	m       machine
	notify  chan struct{}
	mu      sync.Mutex
	conn    *transport.Conn // nil: none
	pending *Frame          // which the driver could not write
	armed   atomic.Int64    // when the goroutine wakes by itself, unix nanoseconds; 0: it is awake
	used    atomic.Int64    // when a frame was last written, unix nanoseconds
}

func newOutlet(r *Replication, m machine) *outlet {
	return &outlet{r: r, m: m, notify: make(chan struct{}, 1)}
}

// open gives the outlet its connection, close takes it away.
func (o *outlet) open(c *transport.Conn) {
	o.used.Store(o.r.o.Now().UnixNano())
	o.mu.Lock()
	o.conn = c
	o.mu.Unlock()
}

func (o *outlet) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.conn = nil
	if o.pending != nil {
		o.pending.Release()
		o.pending = nil
	}
}

// write writes one frame, on the goroutine: it may block. wrote is false when there is none, and again says when to look
// again at the latest.
func (o *outlet) write() (wrote bool, again time.Time, err error) {
	o.armed.Store(0)
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.conn.Flush(); err != nil {
		return false, again, err
	}
	f := o.pending
	if o.pending = nil; f == nil {
		f, again = o.m.Next(o.r.o.Now())
	}
	if f == nil {
		return false, again, nil
	}
	err = writeFrame(o.conn, f)
	f.Release()
	o.used.Store(o.r.o.Now().UnixNano())
	return true, again, err
}

// wait sleeps until there is something to write, or until a time; false when the connection or everything ends.
func (o *outlet) wait(timer *time.Timer, again time.Time, closed <-chan struct{}) bool {
	at := int64(math.MaxInt64)
	if !again.IsZero() {
		at = again.UnixNano()
	}
	o.armed.Store(at)
	return wait(o.r, o.notify, timer, again, closed)
}

// flush writes what there is without blocking, on a thread that told the machine quietly. What it cannot write the
// goroutine will.
func (o *outlet) flush(now time.Time) {
	if !o.mu.TryLock() {
		o.m.rouse()
		return
	}
	defer o.mu.Unlock()
	for o.conn != nil && o.pending == nil {
		f, again, ok := o.m.TryNext(now)
		switch {
		case !ok:
			o.m.rouse()
			return
		case f == nil:
			if armed := o.armed.Load(); armed == 0 || !again.IsZero() && again.UnixNano() < armed {
				wakeUp(o.notify) // it is to sleep less long
			}
			return
		}
		sent, rest, err := tryFrame(o.conn, f)
		if !sent && err == nil {
			o.pending = f
			wakeUp(o.notify)
			return
		}
		f.Release()
		o.used.Store(now.UnixNano())
		if rest || err != nil { // an error has closed the connection
			wakeUp(o.notify)
			return
		}
	}
	o.m.rouse()
}

func tryFrame(c *transport.Conn, f *Frame) (sent, rest bool, err error) {
	if !f.Bulk {
		return c.TryWrite(f.Type, f.Head, nil)
	}
	return c.TryWrite(f.Type, f.Head, &transport.Bulk{Pieces: f.Pieces})
}

// outlets are those of all connections.
type outlets struct {
	mu   sync.Mutex // for changes of list
	list atomic.Pointer[[]*outlet]
}

func (s *outlets) change(f func([]*outlet) []*outlet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var now []*outlet
	if old := s.list.Load(); old != nil {
		now = append(now, *old...)
	}
	now = f(now)
	s.list.Store(&now)
}

// Flush sends what Appended and Stored were told quietly. It does not block: it belongs at the end of a turn of a thread that
// drives a shard, and behind each commit of one.
func (r *Replication) Flush() {
	list := r.outlets.list.Load()
	if list == nil {
		return
	}
	var now time.Time
	for _, o := range *list {
		if !o.m.takeQuiet() {
			continue
		}
		if now.IsZero() {
			now = r.o.Now()
		}
		o.flush(now)
	}
}
