package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// rawThread is one epoll loop with some of the run's connections. It stays on its thread of the system.
type rawThread struct {
	l     *load
	index int
	count int // of threads
	ep    int
	conns []*rawConn
	buf   []byte
	dirty []*rawConn // to be flushed at the turn's end

	due   int64 // open loop: index of the next request that is due
	turn  int   // of conns, whose room is looked at first
	live  int   // connections that work
	under int   // requests without an answer
}

const (
	rawEvents  = 256
	rawIdle    = 5 * time.Millisecond // the longest wait: the window's end is looked at
	rawReadBuf = 256 << 10
)

// runRaw is the load without a client library: Threads epoll loops, Concurrency connections, Inflight requests each.
func (l *load) runRaw(ctx context.Context) error {
	loading, cancel := l.w.loading(ctx)
	defer cancel()
	template, err := newRawBatch(l.o, l.payload)
	if err != nil {
		return err
	}
	byLeader := map[int32][]int{}
	var leaders []int32
	for i, p := range l.places {
		head, err := newRawHead(l.o, p, template.data)
		if err != nil {
			return err
		}
		l.heads = append(l.heads, head)
		if byLeader[p.leader.NodeID] == nil {
			leaders = append(leaders, p.leader.NodeID)
		}
		byLeader[p.leader.NodeID] = append(byLeader[p.leader.NodeID], i)
	}
	threads := make([]*rawThread, min(max(1, l.o.Threads), l.o.Concurrency))
	defer func() {
		for _, t := range threads {
			t.close()
		}
	}()
	for i := range threads {
		ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		if err != nil {
			return err
		}
		threads[i] = &rawThread{l: l, index: i, count: len(threads), ep: ep, buf: make([]byte, rawReadBuf), due: int64(i)}
	}
	for i := range l.o.Concurrency {
		// A connection serves its share of what its broker leads, or one of them if there are more connections.
		led := byLeader[leaders[i%len(leaders)]]
		nth, of := i/len(leaders), (l.o.Concurrency+len(leaders)-1)/len(leaders)
		var mine []int
		for k := nth % len(led); k < len(led); k += max(of, 1) {
			mine = append(mine, led[k])
		}
		leader := l.places[led[0]].leader
		fd, err := dialRaw(net.JoinHostPort(leader.Host, strconv.Itoa(int(leader.Port))))
		if err != nil {
			return err
		}
		c := &rawConn{fd: fd, places: mine, batch: template.clone(), under: make([]rawSent, l.o.Inflight)}
		if err := threads[i%len(threads)].add(c); err != nil {
			return err
		}
	}
	var running sync.WaitGroup
	for _, t := range threads {
		running.Go(func() { t.run(loading) })
	}
	running.Wait()
	return nil
}

func (t *rawThread) add(c *rawConn) error {
	c.index = int32(len(t.conns))
	t.conns = append(t.conns, c)
	t.live++
	return unix.EpollCtl(t.ep, unix.EPOLL_CTL_ADD, c.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: c.index})
}

func (t *rawThread) close() {
	if t == nil {
		return
	}
	for _, c := range t.conns {
		if c.fd >= 0 {
			_ = unix.Close(c.fd)
		}
	}
	_ = unix.Close(t.ep)
}

// run sends until loading ends, and then waits for the answers at most Drain long.
func (t *rawThread) run(loading context.Context) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // without it a wait is up to 50 us longer, no more
	events := make([]unix.EpollEvent, rawEvents)
	now := time.Now()
	t.dirty = append(t.dirty, t.conns...)
	var ends time.Time
	for {
		sending := now.Before(t.l.w.closes) && loading.Err() == nil
		wait := rawIdle
		if t.l.o.Rate > 0 && sending {
			wait = min(wait, t.sendDue(now))
		}
		for _, c := range t.dirty {
			t.serve(c, now, sending && t.l.o.Rate == 0)
		}
		t.dirty = t.dirty[:0]
		if !sending {
			if ends.IsZero() {
				ends = now.Add(t.l.o.Drain)
			}
			if t.under == 0 || t.live == 0 || now.After(ends) {
				break
			}
		}
		if t.live == 0 {
			break
		}
		n, err := epollWait(t.ep, events, wait)
		if err != nil {
			t.l.failures.add(err)
			break
		}
		now = time.Now()
		for _, e := range events[:n] {
			c := t.conns[e.Fd]
			if c.broken {
				continue
			}
			if e.Events&^unix.EPOLLOUT != 0 {
				if err := c.fill(t.buf, func(answer []byte) error { return t.finish(c, answer, now) }); err != nil {
					t.fail(c, err)
					continue
				}
			}
			t.dirty = append(t.dirty, c)
		}
		for _, c := range t.conns {
			if !c.refused.IsZero() && now.After(c.refused) {
				c.refused = time.Time{}
				t.dirty = append(t.dirty, c)
			}
		}
	}
	for _, c := range t.conns {
		if c.n > 0 && !c.broken {
			t.fail(c, errors.New("no answer before the drain was over"))
		}
	}
}

// sendDue pushes every request that is due, and returns how long it is until the next one.
func (t *rawThread) sendDue(now time.Time) time.Duration {
	l, records := t.l, float64(rawRecords(t.l.o))
	for {
		due := l.w.began.Add(time.Duration(float64(t.due) * records * float64(time.Second) / l.o.Rate))
		if wait := due.Sub(now); wait > 0 {
			return wait
		}
		if !due.Before(l.w.closes) {
			return rawIdle
		}
		var c *rawConn
		for range t.conns {
			if t.turn++; t.turn >= len(t.conns) {
				t.turn = 0
			}
			if t.conns[t.turn].room(now) {
				c = t.conns[t.turn]
				break
			}
		}
		if c == nil {
			return rawIdle // what is due waits for an answer, and is charged with the wait
		}
		t.due += int64(t.count)
		l.lagMu.Lock()
		_ = l.lag.RecordValue(min(max(now.Sub(due).Microseconds(), latencyMin), latencyMax)) // clamped
		l.lagMu.Unlock()
		t.push(c, due)
		if c.large != nil {
			t.serve(c, now, false) // it blocks the connection until it is written
		} else {
			t.dirty = append(t.dirty, c)
		}
	}
}

func (t *rawThread) push(c *rawConn, at time.Time) {
	count := uint64(c.batch.records)
	c.push(t.l, t.l.numbers.Add(count)-count, at)
	t.l.sent.Add(int64(count))
	t.under++
}

// serve fills the connection's window in a closed loop, and writes.
func (t *rawThread) serve(c *rawConn, now time.Time, closed bool) {
	for !c.broken {
		for closed && c.room(now) {
			t.push(c, now)
		}
		more, err := c.flush()
		if err != nil {
			t.fail(c, err)
			return
		}
		if more == c.watching { // everything is out and room is waited for, or the other way round
			c.watching = !more
			want := uint32(unix.EPOLLIN)
			if c.watching {
				want |= unix.EPOLLOUT
			}
			if err := unix.EpollCtl(t.ep, unix.EPOLL_CTL_MOD, c.fd, &unix.EpollEvent{Events: want, Fd: c.index}); err != nil {
				t.fail(c, err)
				return
			}
		}
		if !more || !closed || !c.room(now) {
			return
		}
	}
}

// finish books the answer to the oldest request of a connection.
func (t *rawThread) finish(c *rawConn, answer []byte, now time.Time) error {
	s, err := c.pop(answer)
	if err != nil {
		return err
	}
	t.under--
	l, count := t.l, int64(c.batch.records)
	base, err := l.heads[s.place].outcome(answer)
	if err != nil {
		l.failures.addMany(err, count)
		c.refused = now.Add(failureBackoff)
		return nil
	}
	l.acked.Add(count)
	inside := l.w.measures(now)
	if inside {
		l.counted.Add(count)
	}
	measured := inside
	if l.o.Rate > 0 {
		measured = l.w.measures(s.at) // a late answer belongs to the moment that caused it
	}
	l.acks.record(t.index, now.Sub(s.at), int(count)*l.o.MessageSize, measured) // one sample a request
	if l.rawLedger != nil {
		l.rawLedger.acknowledge(t.index, s.place, base, s.number)
	}
	return nil
}

// fail ends a connection; what it had under way has failed.
func (t *rawThread) fail(c *rawConn, err error) {
	if c.broken {
		return
	}
	c.broken = true
	t.live--
	t.under -= c.n
	if c.n > 0 {
		err = fmt.Errorf("%d request(s) without an answer: %w", c.n, err)
	}
	t.l.failures.addMany(err, max(1, int64(c.n)*int64(c.batch.records)))
	_ = unix.Close(c.fd)
	c.fd = -1
}
