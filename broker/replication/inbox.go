package replication

import (
	"sync"
	"sync/atomic"
)

// How a writer sleeps. Whoever has news for it wakes it only then.
const (
	awake      uint32 = iota
	sleepDeep         // anything wakes it
	sleepMarks        // changes of high watermarks do not: it wakes for them at a set time
	sleepFull         // new batches do not either: the window is full
)

// inbox is where others leave news for a step machine. Its lock is a leaf: it may be taken under any other.
type inbox[T any] struct {
	mu     sync.Mutex
	list   []T
	spare  []T
	asleep atomic.Uint32
	quiet  atomic.Bool // something was put in for which nobody was woken
	notify atomic.Pointer[func()]
}

// put adds an item.
func (b *inbox[T]) put(item T) {
	b.mu.Lock()
	b.list = append(b.list, item)
	b.mu.Unlock()
}

// empty reports whether there is nothing.
func (b *inbox[T]) empty() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.list) == 0
}

// take returns all items; they are valid until the next call.
func (b *inbox[T]) take() []T {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.spare)
	b.list, b.spare = b.spare[:0], b.list
	return b.spare
}

// sleep says that the writer sleeps; false when there are items: it must look at them first.
func (b *inbox[T]) sleep(how uint32) bool {
	b.asleep.Store(how)
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.list) > 0 {
		b.asleep.Store(awake)
		return false
	}
	return true
}

// wake wakes a writer unless it sleeps in a way beyond upTo.
func (b *inbox[T]) wake(upTo uint32) {
	how := b.asleep.Load()
	if how == awake || how > upTo {
		return
	}
	if b.asleep.CompareAndSwap(how, awake) {
		if f := b.notify.Load(); f != nil {
			(*f)()
		}
	}
}
