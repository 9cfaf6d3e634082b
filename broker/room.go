package broker

import (
	"sync"

	"millrace/engine"
)

// roomQueue holds the produce requests that wait for room in a shard. Each has
// paused its connection, so there is at most one per connection.
type roomQueue struct {
	mu      sync.Mutex
	waiting map[*engine.Shard][]*produceRequest
}

// waitForRoom parks p until the shard can take more.
func (b *Broker) waitForRoom(s *engine.Shard, p *produceRequest) {
	q := &b.room
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiting == nil {
		q.waiting = map[*engine.Shard][]*produceRequest{}
	}
	first := len(q.waiting[s]) == 0
	q.waiting[s] = append(q.waiting[s], p)
	if first {
		s.OnRoom(func() { q.wake(s) })
	}
}

// wake lets everyone who waits for s try again, on their own loops.
func (q *roomQueue) wake(s *engine.Shard) {
	q.mu.Lock()
	all := q.waiting[s]
	q.waiting[s] = nil
	q.mu.Unlock()
	for _, p := range all {
		p.conn.Loop().Post(p)
	}
}
