package sim

import (
	"slices"
	"time"
)

// network is who hears whom. Links have a direction.
type network struct {
	w       *world
	blocked map[[2]int32]bool
	slow    map[[2]int32]time.Duration
	lossy   int // of 100 messages without a connection
	conns   []*conn
}

// hears reports whether messages from one node reach another.
func (n *network) hears(from, to int32) bool { return from == to || !n.blocked[[2]int32{from, to}] }

// both reports whether two nodes hear each other.
func (n *network) both(a, b int32) bool { return n.hears(a, b) && n.hears(b, a) }

func (n *network) delay(from, to int32) time.Duration {
	if from == to {
		return 0
	}
	d := n.w.between(100*time.Microsecond, 3*ms) + n.slow[[2]int32{from, to}]
	if n.w.chance(2) {
		d += n.w.between(0, 200*ms)
	}
	return d
}

// send delivers a message without a connection, or not. The process that runs then gets it.
func (n *network) send(from, to *node, f func()) {
	if !n.hears(from.id, to.id) || from != to && n.w.chance(n.lossy) {
		return
	}
	n.w.after(n.delay(from.id, to.id), func() { to.run(to.inc, f) })
}

// conn is a connection between two processes: what is sent arrives in order, or the connection ends.
type conn struct {
	n       *network
	id      int
	end     [2]*node
	inc     [2]int
	last    [2]time.Duration // when what was sent by each end arrives at the latest
	held    [2][]any         // what a blocked link keeps back
	closing bool
	lost    [2]bool
	take    [2]func(msg any) // of what was sent to each end
	gone    [2]func()
	patient time.Duration // until a silent connection is given up
	silent  time.Duration // for how long it has been
	drop    int           // of 1000 frames of batches vanish in the middle: no network does that, a bug might
}

// dial connects two processes that run and hear each other.
func (n *network) dial(a, b *node) *conn {
	c := &conn{n: n, id: n.w.next(), end: [2]*node{a, b}, inc: [2]int{a.inc, b.inc}, patient: n.w.between(500*ms, 6*time.Second), drop: n.w.plan.dropFrames}
	n.conns = append(n.conns, c)
	return c
}

// send puts a message on its way from one end to the other.
func (c *conn) send(from int, msg any) {
	if c.closing {
		return
	}
	if p, ok := msg.(packet); ok && len(p.bulk) > 0 && c.drop > 0 && c.n.w.rng.IntN(1000) < c.drop {
		c.n.w.stats.drops++
		c.n.w.tracef("a frame of batches from node %d to %d vanishes", c.end[0].id, c.end[1].id)
		c.n.w.after(c.n.w.between(0, 2*time.Second), c.cut) // what waits for the lost one's acknowledgement must not wait for ever
		return
	}
	w, to := c.n.w, 1-from
	at := max(c.last[from], w.now+c.n.delay(c.end[from].id, c.end[to].id))
	c.last[from] = at
	w.after(at-w.now, func() { c.arrive(to, msg) })
}

func (c *conn) arrive(to int, msg any) {
	if c.lost[to] {
		return
	}
	if !c.n.hears(c.end[1-to].id, c.end[to].id) || len(c.held[to]) > 0 {
		c.held[to] = append(c.held[to], msg)
		return
	}
	c.deliver(to, msg)
}

func (c *conn) deliver(to int, msg any) {
	c.end[to].run(c.inc[to], func() {
		if !c.lost[to] {
			c.take[to](msg)
		}
	})
}

// look gives up connections that nothing gets through, and lets through what healed links have kept.
func (n *network) look(every time.Duration) {
	n.conns = slices.DeleteFunc(n.conns, func(c *conn) bool { return c.lost[0] && c.lost[1] })
	for _, c := range slices.Clone(n.conns) { // what is delivered may lead to others
		for to := range 2 {
			if c.inc[to] != c.end[to].inc { // the process is no more
				c.cut()
			}
		}
		if n.both(c.end[0].id, c.end[1].id) {
			c.silent = 0
			for to := range 2 {
				held := c.held[to]
				c.held[to] = nil
				for _, m := range held {
					c.deliver(to, m)
				}
			}
			continue
		}
		if c.silent += every; c.silent > c.patient {
			c.cut()
		}
	}
}

// cut ends a connection. Each end may still get some of what is under way before it hears of that.
func (c *conn) cut() {
	if c.closing {
		return
	}
	c.closing = true
	for to := range 2 {
		c.n.w.after(c.n.w.between(0, 5*ms), func() {
			if c.lost[to] {
				return
			}
			c.lost[to] = true
			c.held[to] = nil
			if e := c.end[to]; e.inc == c.inc[to] && e.up {
				e.run(c.inc[to], c.gone[to])
			}
		})
	}
}
