package replica

import "sync"

// AckWaiter is told when the records that it waits for are acknowledged, or that they never will be, or not in time.
// It runs on the thread that brought the news; driver tells that this is the driver thread of the log's shard.
type AckWaiter interface {
	Acked(tag int, err error, driver bool)
}

// ProgressWaiter is told once that the high watermark of a partition moved.
type ProgressWaiter interface {
	Progressed()
}

type waitEntry struct {
	need     int64 // acknowledged when the end that is waited for is at least this
	deadline int64 // 0: none
	tag      int
	w        AckWaiter
}

// waitList holds waiters in the order of what they need.
type waitList struct {
	entries []waitEntry
	head    int // entries[:head] are done
}

// add queues e. Appends come in order; only the answer to a duplicate may have to go before the end.
func (l *waitList) add(e waitEntry) {
	if l.head > 0 && l.head == len(l.entries) {
		l.entries, l.head = l.entries[:0], 0
	}
	l.entries = append(l.entries, e)
	for i := len(l.entries) - 1; i > l.head && l.entries[i-1].need > e.need; i-- {
		l.entries[i-1], l.entries[i] = l.entries[i], l.entries[i-1]
	}
}

// take moves those that need at most end to dst.
func (l *waitList) take(end int64, dst []waitEntry) []waitEntry {
	n := l.head
	for n < len(l.entries) && l.entries[n].need <= end {
		n++
	}
	dst = append(dst, l.entries[l.head:n]...)
	clear(l.entries[l.head:n])
	l.head = n
	if l.head > 64 && l.head*2 > len(l.entries) {
		l.entries = l.entries[:copy(l.entries, l.entries[l.head:])]
		l.head = 0
	}
	return dst
}

// all moves everybody to dst.
func (l *waitList) all(dst []waitEntry) []waitEntry {
	dst = append(dst, l.entries[l.head:]...)
	clear(l.entries)
	l.entries, l.head = l.entries[:0], 0
	return dst
}

// expired moves those whose deadline is over to dst.
func (l *waitList) expired(now int64, dst []waitEntry) []waitEntry {
	kept := l.entries[:l.head]
	for _, e := range l.entries[l.head:] {
		if e.deadline != 0 && e.deadline <= now {
			dst = append(dst, e)
		} else {
			kept = append(kept, e)
		}
	}
	clear(l.entries[len(kept):])
	l.entries = kept
	return dst
}

// waiters are entries taken out of a partition's lists, to be called without its lock.
type waiters struct{ entries []waitEntry }

var waitersPool = sync.Pool{New: func() any { return new(waiters) }}

func takeWaiters() *waiters { return waitersPool.Get().(*waiters) }

// call tells everybody and gives w back.
func (w *waiters) call(err error, driver bool) {
	for _, e := range w.entries {
		e.w.Acked(e.tag, err, driver)
	}
	clear(w.entries)
	w.entries = w.entries[:0]
	waitersPool.Put(w)
}

// Watch asks for one call of w.Progressed when the high watermark moves past
// seen; it returns false, and keeps nothing, when it has already moved.
func (p *Partition) Watch(w ProgressWaiter, seen int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hw.Load() != seen || p.failed != nil || p.role == offline {
		return false
	}
	p.watchers = append(p.watchers, w)
	return true
}

// WakeWatchers calls everyone who watches, although nothing has moved.
func (p *Partition) WakeWatchers() {
	p.mu.Lock()
	watchers := append([]ProgressWaiter(nil), p.watchers...)
	clear(p.watchers)
	p.watchers = p.watchers[:0]
	p.mu.Unlock()
	for _, w := range watchers {
		w.Progressed()
	}
}

// Unwatch takes back a Watch that has not been answered; it is a no-op
// otherwise.
func (p *Partition) Unwatch(w ProgressWaiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.watchers {
		if p.watchers[i] == w {
			last := len(p.watchers) - 1
			p.watchers[i] = p.watchers[last]
			p.watchers[last] = nil
			p.watchers = p.watchers[:last]
			return
		}
	}
}
