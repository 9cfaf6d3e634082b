package netpoll

import "time"

// Timer is a task that will run later on its loop. The zero Timer is one that
// has already run.
type Timer struct {
	node *timerNode
	gen  uint32
}

// Stop keeps the task from running and says whether it was in time. The loop's
// thread only.
func (t Timer) Stop() bool {
	if t.node == nil || t.node.gen != t.gen {
		return false
	}
	t.node.loop.timers.remove(t.node)
	return true
}

// timerNode is an entry of the heap. Nodes are reused; gen tells a Timer of an
// earlier use from the present one.
type timerNode struct {
	loop *Loop
	at   int64 // ms of Loop.Now
	task Task
	pos  int
	gen  uint32
}

// Schedule runs t on the loop when Now has reached at. The loop's thread, or before Start.
func (l *Loop) Schedule(at int64, t Task) Timer {
	n := l.timers.add(l, at, t)
	return Timer{node: n, gen: n.gen}
}

// After runs t on the loop when d has passed, rounded up to milliseconds. The loop's
// thread, or before Start.
func (l *Loop) After(d time.Duration, t Task) Timer {
	return l.Schedule(l.now+int64((d+time.Millisecond-1)/time.Millisecond), t)
}

// timers is a binary heap by time. There may be one entry for every waiting
// request, so add and remove must be cheap and allocate nothing.
type timers struct {
	heap []*timerNode
	free []*timerNode
}

func (t *timers) add(l *Loop, at int64, task Task) *timerNode {
	var n *timerNode
	if k := len(t.free); k > 0 {
		n = t.free[k-1]
		t.free = t.free[:k-1]
	} else {
		n = &timerNode{loop: l}
	}
	n.at, n.task, n.pos = at, task, len(t.heap)
	t.heap = append(t.heap, n)
	t.up(n.pos)
	return n
}

func (t *timers) remove(n *timerNode) {
	last := len(t.heap) - 1
	i := n.pos
	if i != last {
		t.heap[i] = t.heap[last]
		t.heap[i].pos = i
	}
	t.heap[last] = nil
	t.heap = t.heap[:last]
	if i != last {
		t.down(i)
		t.up(i)
	}
	n.task = nil
	n.gen++
	t.free = append(t.free, n)
}

// next returns when the first timer is due.
func (t *timers) next() (at int64, ok bool) {
	if len(t.heap) == 0 {
		return 0, false
	}
	return t.heap[0].at, true
}

// expire takes the first timer if it is due.
func (t *timers) expire(now int64) (Task, bool) {
	if len(t.heap) == 0 || t.heap[0].at > now {
		return nil, false
	}
	n := t.heap[0]
	task := n.task
	t.remove(n)
	return task, true
}

func (t *timers) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if t.heap[parent].at <= t.heap[i].at {
			return
		}
		t.swap(i, parent)
		i = parent
	}
}

func (t *timers) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(t.heap) {
			return
		}
		if r := child + 1; r < len(t.heap) && t.heap[r].at < t.heap[child].at {
			child = r
		}
		if t.heap[i].at <= t.heap[child].at {
			return
		}
		t.swap(i, child)
		i = child
	}
}

func (t *timers) swap(i, j int) {
	t.heap[i], t.heap[j] = t.heap[j], t.heap[i]
	t.heap[i].pos, t.heap[j].pos = i, j
}
