package broker

import (
	"context"
	"sync"
)

// appliedIndex is the metadata index up to which this broker's partitions
// follow.
type appliedIndex struct {
	mu    sync.Mutex
	cond  sync.Cond
	index uint64
}

func (a *appliedIndex) set(index uint64) {
	a.mu.Lock()
	if index > a.index {
		a.index = index
	}
	a.cond.Broadcast()
	a.mu.Unlock()
}

func (a *appliedIndex) get() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.index
}

func (a *appliedIndex) wait(ctx context.Context, index uint64) error {
	stop := context.AfterFunc(ctx, func() {
		a.mu.Lock()
		a.cond.Broadcast()
		a.mu.Unlock()
	})
	defer stop()
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.index < index {
		if err := ctx.Err(); err != nil {
			return err
		}
		a.cond.Wait()
	}
	return nil
}

// awaitImage waits until this broker's own image has reached a metadata index
// and the logs that it names exist: an admin request is answered only then, so
// that the client's next request finds what it made.
func (b *Broker) awaitImage(ctx context.Context, index uint64) error {
	return b.applied.wait(ctx, index)
}
