package sim

import (
	"bytes"
	"slices"
	"time"

	"millrace/broker/replica"
	"millrace/broker/replication"
	"millrace/raft"
)

// streams drives the step machines of a process's replication: see replication.Replication, which does it with goroutines.
type streams struct {
	n     *node
	node  *replication.Node
	out   []*outlet // both kinds of each peer
	in    []*inlet
	dirty bool // some machine has something to do
}

// outlet is the leader's end of a connection to one follower.
type outlet struct {
	st    *streams
	s     *replication.Sender
	peer  *node
	c     *conn // nil: not connected
	retry time.Duration
	alarm time.Duration // when it is looked at again; 0: not before it says so
}

// inlet is the follower's end of a connection from one leader.
type inlet struct {
	st    *streams
	r     *replication.Receiver
	c     *conn
	alarm time.Duration
}

// packet is a frame under way.
type packet struct {
	kind       byte
	head, bulk []byte
}

func newStreams(n *node) *streams {
	st := &streams{n: n}
	st.node = replication.NewNode(replication.NodeOptions{
		NodeID: n.id, BrokerEpoch: func() int64 { return n.epoch },
		ImageIndex: func() uint64 { return n.w.log.At(n.follows).Index },
		Find: func(k replication.Key) replication.Partition {
			if t := n.set.TopicByID(k.Topic); t != nil {
				if p := t.Partition(k.Partition); p != nil {
					return p
				}
			}
			return nil
		},
		OnPeer: st.meet,
		Aside:  func(f func()) { f() },
	})
	n.every(50*ms, func() { st.dirty = true })
	return st
}

func (st *streams) replicator() replica.Replicator { return st.node }

// meet takes up a peer.
func (st *streams) meet(p *replication.Peer) {
	for _, s := range []*replication.Sender{p.Tail, p.CatchUp} {
		s.SetNotify(func() { st.dirty = true })
		st.out = append(st.out, &outlet{st: st, s: s, peer: st.n.w.node(p.ID)})
	}
	st.dirty = true
}

// applied lets streams that wait for metadata go on.
func (st *streams) applied(*raft.Image) { st.node.ImageChanged() }

// pump lets every machine do what it can.
func (st *streams) pump() {
	for rounds := 0; st.dirty && st.n.up && st.n.streams == st && !st.n.disk.PowerIsOut(); rounds++ {
		if rounds > 10_000 {
			st.n.w.fail("node %d: its streams never come to rest", st.n.id)
		}
		st.dirty = false
		for _, o := range slices.Clone(st.out) {
			o.step()
		}
		for _, i := range slices.Clone(st.in) {
			i.step()
		}
	}
	select {
	case <-st.n.set.ISRPoke():
		st.n.after(2*ms, st.n.proposeISR)
	default:
	}
}

func (o *outlet) step() {
	w := o.st.n.w
	if o.c == nil {
		if w.now < o.retry || !o.s.Wanted() {
			return
		}
		o.retry = w.now + w.between(20*ms, 400*ms)
		if !o.peer.awake() || o.peer.set == nil || !w.net.both(o.st.n.id, o.peer.id) {
			return
		}
		o.dial()
	}
	for {
		f, again := o.s.Next(w.wall())
		if f == nil {
			o.st.wakeAt(&o.alarm, again)
			return
		}
		o.c.send(0, o.st.packet(f))
	}
}

// packet copies a frame, and now and then flips a bit of its bulk, which has no checksum of its own on the way.
func (st *streams) packet(f *replication.Frame) packet {
	w := st.n.w
	bulk, err := f.BulkBytes(nil)
	if err != nil {
		w.fail("node %d: read a frame: %v", st.n.id, err)
	}
	if len(bulk) > 0 && w.plan.flips > 0 && w.rng.IntN(1000) < w.plan.flips {
		w.stats.flips++
		w.tracef("node %d sends a flipped bit", st.n.id)
		bulk[w.rng.IntN(min(len(bulk), 1<<w.rng.IntN(14)))] ^= 1 << w.rng.IntN(8) // often in the first header
	}
	p := packet{f.Type, bytes.Clone(f.Head), bulk}
	f.Release()
	return p
}

// wakeAt lets the machines run at a time.
func (st *streams) wakeAt(alarm *time.Duration, at time.Time) {
	if at.IsZero() {
		return
	}
	w := st.n.w
	d := max(at.Sub(w.wall()), time.Microsecond)
	if *alarm > w.now && *alarm <= w.now+d {
		return // there is one already
	}
	*alarm = w.now + d
	st.n.after(d, func() { st.dirty = true })
}

// dial connects to a follower.
func (o *outlet) dial() {
	w := o.st.n.w
	c := w.net.dial(o.st.n, o.peer)
	peer := o.peer.streams
	i := &inlet{st: peer, r: peer.node.Accept(o.st.n.id, o.s.Kind()), c: c}
	i.r.SetNotify(func() { peer.dirty = true })
	c.take = [2]func(any){o.take, i.take}
	c.gone = [2]func(){
		func() {
			o.c = nil
			o.s.Lost(w.wall())
			o.st.dirty = true
		},
		func() {
			i.r.Lost()
			peer.in = slices.DeleteFunc(peer.in, func(x *inlet) bool { return x == i })
		},
	}
	o.c = c
	peer.in = append(peer.in, i)
	o.s.Connected(w.wall())
	o.peer.after(0, func() { peer.dirty = true })
}

func (o *outlet) take(msg any) {
	p := msg.(packet)
	o.st.dirty = true
	if err := o.s.OnFrame(o.st.n.w.wall(), p.kind, p.head, p.bulk); err != nil {
		o.st.n.w.fail("node %d: a frame of node %d: %v", o.st.n.id, o.peer.id, err)
	}
}

func (i *inlet) take(msg any) {
	p := msg.(packet)
	i.st.dirty = true
	if err := i.r.OnFrame(i.st.n.w.wall(), p.kind, p.head, p.bulk); err != nil {
		i.st.n.w.fail("node %d: a frame of node %d: %v", i.st.n.id, i.r.Leader(), err)
	}
}

func (i *inlet) step() {
	for {
		f, again := i.r.Next(i.st.n.w.wall())
		if f == nil {
			i.st.wakeAt(&i.alarm, again)
			return
		}
		i.c.send(1, i.st.packet(f))
	}
}
