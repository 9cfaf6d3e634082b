package netpoll

import "time"

// starve puts c on the list of those that wait for memory.
func (l *Loop) starve(c *Conn) {
	if !l.hungry.has(c) {
		l.hungry.pushBack(c)
		l.counts.starved++
	}
	if l.hungryFor == 0 {
		l.hungryFor = max(l.now, 1)
	}
	l.srv.memory.hungry.Store(true)
	l.sweepSoon()
}

// unstarve takes c off that list: it got what it wanted or wants it no more.
func (l *Loop) unstarve(c *Conn) {
	if l.hungry.has(c) {
		l.hungry.remove(c)
		if l.hungry.front == nil {
			l.hungryFor = 0
		}
	}
}

// feeding lets those that wait for memory try again, a moment after some was
// given back: the moment keeps thousands of them from trying for every kilobyte.
type feeding Loop

// Run implements Task.
func (k *feeding) Run() {
	l := (*Loop)(k)
	if l.hungry.front != nil && !l.feedSoon {
		l.feedSoon = true
		l.Schedule(l.now+hungryRetry, (*fed)(l))
	}
}

type fed Loop

// Run implements Task.
func (k *fed) Run() {
	l := (*Loop)(k)
	l.feedSoon = false
	l.feed()
}

func (l *Loop) feed() {
	for c := l.hungry.front; c != nil; {
		next := l.hungry.after(c)
		if c.muted() {
			l.unstarve(c)
		} else {
			c.readMore()
		}
		c = next
	}
}

// sweepSoon starts the sweeper if it sleeps. It is awake only while some
// connection holds a half frame, is blocked, or waits for memory.
func (l *Loop) sweepSoon() {
	if l.sweeping {
		return
	}
	l.sweeping = true
	l.Schedule(l.now+l.sweepPeriod(), (*sweeping)(l))
}

func (l *Loop) sweepPeriod() int64 {
	o := &l.srv.opts
	period := min(o.FrameTimeout, o.WriteTimeout) / 8
	return min(max(period.Milliseconds(), 5), 100)
}

// sweeping looks at the deadlines of half frames and blocked connections.
type sweeping Loop

// Run implements Task.
func (k *sweeping) Run() {
	l := (*Loop)(k)
	l.sweeping = false
	l.sweepHalf()
	l.sweepBlocked()
	if l.hungry.front != nil {
		if l.now-l.hungryFor >= shedAge {
			l.shed()
		}
		// Memory that was given back while nobody was marked hungry yet went unnoticed.
		l.srv.memory.hungry.Store(true)
		l.feed()
	}
	if l.half.front != nil || l.blocked.front != nil || l.hungry.front != nil {
		l.sweepSoon()
	}
}

func (l *Loop) sweepHalf() {
	timeout := l.srv.opts.FrameTimeout.Milliseconds()
	for c := l.half.front; c != nil; c = l.half.after(c) {
		if c.muted() {
			c.began = l.now // it is us who do not read
			continue
		}
		if l.now-c.began >= timeout+int64(c.w-c.r)*1000/frameRateMin {
			c.Close(ErrFrameTimeout)
		}
	}
}

// muted tells that the server does not want frames from c at the moment.
func (c *Conn) muted() bool {
	o := &c.srv.opts
	return c.paused || c.slots.inflight() >= o.MaxInflight || c.held.Load()+int64(c.outBytes) >= o.ConnMemory
}

func (l *Loop) sweepBlocked() {
	timeout := l.srv.opts.WriteTimeout.Milliseconds()
	for c := l.blocked.front; c != nil && l.now-c.progressed >= timeout; c = l.blocked.after(c) {
		c.fail(ErrWriteTimeout)
	}
}

// shed closes the oldest half frames until half of the budget is free, if half
// frames are what fills it.
func (l *Loop) shed() {
	m := l.srv.memory
	held := int64(0)
	for c := l.half.front; c != nil; c = l.half.after(c) {
		held += int64(len(c.in.mem))
	}
	if held < m.total/4/int64(len(l.srv.loops)) {
		return
	}
	excess := m.used.Load() - m.total/2
	for c := l.half.front; c != nil && excess > 0; c = l.half.after(c) {
		if l.now-c.began < shedAge {
			continue
		}
		excess -= int64(len(c.in.mem))
		c.Close(ErrShed)
	}
}

// idling is the check of IdleTimeout. It runs once in that time and not at every byte.
type idling Conn

// Run implements Task.
func (k *idling) Run() {
	c := (*Conn)(k)
	if c.Closed() {
		return
	}
	l := c.loop
	timeout := c.srv.opts.IdleTimeout
	idle := time.Duration(l.now-c.active) * time.Millisecond
	if c.slots.inflight() > 0 || c.outFront != nil || c.paused {
		idle = 0
	}
	if idle >= timeout {
		c.Close(ErrIdle)
		return
	}
	c.idle = l.After(timeout-idle, k)
}
