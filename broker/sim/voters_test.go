package sim

import (
	"time"

	"millrace/raft"
	"millrace/raft/controller"
	"millrace/raft/simraft"
)

// voter is a node's part in the metadata quorum. Its log outlives its process; what it observed of brokers does not.
type voter struct {
	w     *world
	n     *node
	index int
	core  *controller.Core
	inc   int    // of the process that the core belongs to
	epoch uint64 // as it believes; 0: it is not the controller
}

// quorum reports whether a voter reaches a majority.
func (w *world) quorum(v *voter) bool {
	if v == nil || !v.n.awake() {
		return false
	}
	n := 0
	for _, o := range w.voters {
		if o.n.awake() && w.net.both(v.n.id, o.n.id) {
			n++
		}
	}
	return n > len(w.voters)/2
}

// awake reports whether the machine's process runs.
func (n *node) awake() bool { return n.up && n.w.now >= n.frozen }

// led reports whether the metadata shard has a leader that a quorum follows.
func (w *world) led() bool {
	return w.leader != nil && w.leader.n.inc == w.leaderInc && w.quorum(w.leader)
}

// raftReaches reports whether new commands reach the node's raft replica.
func (w *world) raftReaches(n *node) bool {
	return w.led() && w.net.both(n.id, w.leader.n.id)
}

// elect lets another voter lead the metadata shard when the one that does has no quorum any more.
func (w *world) elect() {
	if w.led() {
		w.headless = 0
		return
	}
	if w.headless += 100 * ms; w.headless < w.patience {
		return
	}
	w.patience = w.between(200*ms, 1500*ms)
	for _, i := range w.rng.Perm(len(w.voters)) {
		if w.quorum(w.voters[i]) {
			w.lead(w.voters[i])
			return
		}
	}
}

// lead makes a voter the leader of the shard. The one before may go on believing.
func (w *world) lead(v *voter) {
	w.leader, w.leaderInc, w.headless = v, v.n.inc, 0
	epoch := w.log.Claim(v.n.id)
	w.tracef("node %d is the controller: epoch %d", v.n.id, epoch)
	inc := v.n.inc
	w.after(w.between(0, 50*ms), func() {
		v.n.run(inc, func() { v.fresh().epoch = max(v.epoch, epoch) })
	})
}

// fresh makes sure that the core is this process's.
func (v *voter) fresh() *voter {
	if v.core == nil || v.inc != v.n.inc {
		v.core, v.inc, v.epoch = controller.NewCore(v.w.plan.controller), v.n.inc, 0
	}
	return v
}

// tick is a controller's: see controller.Controller.
func (v *voter) tick() {
	v.fresh()
	m := v.w.log.At(v.n.seen)
	if v.epoch != 0 && m.Controller.Epoch > v.epoch {
		v.w.tracef("node %d learns that it is not the controller any more", v.n.id)
		v.epoch = 0
	}
	for _, d := range v.core.Tick(v.w.now, m, v.epoch) {
		v.w.tracef("controller %d of epoch %d: %s", v.n.id, v.epoch, d.Why)
		v.n.propose(d.Command, func(raft.Result, error) {})
	}
}

// observe takes a heartbeat and answers after a quorum round.
func (v *voter) observe(h controller.Heartbeat, answer func(controller.Answer)) {
	v.fresh()
	v.core.Observe(v.w.now, h)
	if v.w.leader != v || v.epoch == 0 {
		return
	}
	epoch := v.epoch
	v.n.after(v.w.between(ms, 5*ms), func() {
		if v.w.leader != v || v.epoch != epoch || !v.w.quorum(v) {
			return
		}
		m := v.w.log.Head()
		b := m.Broker(h.BrokerID)
		if b == nil || b.Epoch != h.BrokerEpoch || m.Controller.Epoch != epoch {
			return
		}
		answer(controller.Answer{Controller: true, Epoch: epoch, Index: m.Index, Fenced: b.Fenced, MayStop: b.ShuttingDown})
		if h.Stopping != b.ShuttingDown || b.Fenced && h.Ready {
			v.n.after(ms, v.tick)
		}
	})
}

// propose is what becomes of a proposal: the seeded model.
func (w *world) propose(n *node, c raft.Command, answer func(raft.Result, error)) {
	unknown := func() { w.after(2*time.Second, func() { answer(raft.Result{}, raft.ErrOutcomeUnknown) }) }
	w.after(w.between(ms, 10*ms), func() {
		if !w.raftReaches(n) {
			if w.chance(15) { // it lies in a queue
				w.log.Delay(w.now+w.between(0, 8*time.Second), c)
			}
			unknown()
			return
		}
		r, ok := w.log.Propose(w.now, c, w.plan.proposals)
		if !ok {
			unknown()
			return
		}
		at := w.log.Len() - 1
		w.after(w.between(ms, 10*ms), func() {
			if w.chance(70) { // most often the answer comes with the image
				n.seen = max(n.seen, at)
				inc := n.inc
				n.run(inc, n.follow)
			}
			answer(r, nil)
		})
	})
}

// committed spreads a new image, sooner or later.
func (w *world) committed(old, now *raft.Image, c raft.Command, r raft.Result) {
	w.note(1, int64(now.Index), int64(r.Code))
	if w.verbose {
		w.traceCommand(old, now, c, r)
	}
	if epoch, ok := controllerEpoch(c); ok && epoch != old.Controller.Epoch && r.Code == raft.OK {
		w.fail("%T of controller epoch %d was taken, epoch is %d: a controller that was replaced acts", c, epoch, old.Controller.Epoch)
	}
	w.ledger.committed(old, now)
	at := w.log.Len() - 1
	for _, n := range w.nodes {
		d := w.between(ms, 15*ms)
		if w.chance(w.plan.lateImages) {
			d = w.between(50*ms, 3*time.Second)
		}
		w.after(d, func() {
			if at <= n.seen || !n.up || !w.raftReaches(n) {
				return
			}
			n.seen = at
			n.run(n.inc, n.follow)
		})
	}
}

// controllerEpoch is the controller that a command is of.
func controllerEpoch(c raft.Command) (epoch uint64, ok bool) {
	switch c := c.(type) {
	case raft.FenceBroker:
		return c.ControllerEpoch, true
	case raft.UnfenceBroker:
		return c.ControllerEpoch, true
	case raft.ControlledShutdown:
		return c.ControllerEpoch, true
	case raft.ElectLeaders:
		return c.ControllerEpoch, true
	}
	return 0, false
}

// usualProposals are the chances while nothing is wrong but the network.
func usualProposals() simraft.Chances {
	return simraft.Chances{Drop: 3, Lose: 5, Late: 5, Max: 4 * time.Second}
}
