package sim

import (
	"fmt"
	"slices"
	"time"

	"millrace/engine/disk/simdisk"
	"millrace/raft"
)

// faultGroups are the cases of trouble that belong together; how many each has is how often it is drawn.
var faultGroups = [][]int{{0, 1}, {2, 3}, {4}, {5, 6, 7}, {8, 9}, {10, 11}, {12}, {13}, {14}, {15}, {16}, {17, 18}, {19}, {20}, {21}, {22}, {23}}

// drawFaults chooses what a run's trouble is: everything, or a few kinds that meet each other the more often.
func (w *world) drawFaults() (faults []int) {
	few := w.rng.IntN(2) == 0
	for _, g := range faultGroups {
		if !few || w.chance(35) {
			faults = append(faults, g...)
		}
	}
	return append(faults, faultGroups[3]...)
}

// trouble does one bad thing.
func (w *world) trouble() {
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	o := w.nodes[w.rng.IntN(len(w.nodes))]
	switch w.plan.faults[w.rng.IntN(len(w.plan.faults))] {
	case 0, 1:
		w.kill(n)
	case 2, 3:
		w.power(n)
	case 4:
		for _, n := range w.nodes {
			if w.chance(80) {
				w.power(n)
			}
		}
	case 5, 6, 7:
		if !n.up {
			n.start()
		}
	case 8, 9:
		w.partition(n, o)
	case 10, 11:
		clear(w.net.blocked)
		clear(w.net.slow)
		w.net.lossy = 0
		w.tracef("the network is whole")
	case 12:
		if n.awake() {
			w.stats.freezes++
			n.freeze(w.between(100*ms, 5*time.Second))
		}
	case 13:
		if n.slow == 1 {
			n.slow = 20 + w.rng.IntN(200)
		} else {
			n.slow = 1
		}
		w.tracef("node %d has a disk %d times slower", n.id, n.slow)
	case 14:
		w.cutStreams()
	case 15:
		w.storm()
	case 16:
		w.stats.stops++
		n.stop()
	case 17, 18:
		w.reassign()
	case 19:
		w.configure()
	case 20:
		w.wipe(n)
	case 21:
		w.net.slow[[2]int32{n.id, o.id}] = w.between(5*ms, 400*ms)
		w.net.lossy = w.rng.IntN(10)
		w.tracef("messages from node %d to %d are slow", n.id, o.id)
	case 22:
		if v := w.voters[w.rng.IntN(len(w.voters))]; v != w.leader && w.quorum(v) {
			w.lead(v) // the old one is well and does not know
		}
	case 23:
		w.log.Commit(raft.DrainBroker{ID: n.id, Drain: w.chance(30)})
	}
}

func (w *world) kill(n *node) {
	if !n.up {
		return
	}
	n.crash(false)
	w.after(w.between(50*ms, 6*time.Second), n.start)
}

// power cuts the power of a machine, also of one whose process has ended before.
func (w *world) power(n *node) {
	if !w.ledger.spare(n, false) {
		w.kill(n)
		return
	}
	w.ledger.taint(n, false)
	switch {
	case n.up && !w.relaxed() && w.chance(70):
		within := uint64(1 + w.rng.IntN(200))
		n.disk.CutAfter(within, func(op simdisk.Op) { w.tracef("the power goes out at node %d in %v", n.id, op) })
	case n.up:
		n.crash(true)
	default:
		n.disk.Crash(n.disk.RandomPolicy())
		w.tracef("node %d loses power while it is down", n.id)
	}
	w.after(w.between(100*ms, 6*time.Second), n.start)
}

// relaxed reports whether some topic acknowledges before the flush.
func (w *world) relaxed() bool {
	return slices.ContainsFunc(w.plan.topics, func(t *topicPlan) bool { return t.relaxed })
}

func (w *world) block(from, to int32) { w.net.blocked[[2]int32{from, to}] = true }

// partition splits the network in one of several ways.
func (w *world) partition(n, o *node) {
	w.stats.partitions++
	switch w.rng.IntN(5) {
	case 0: // one is alone
		w.tracef("node %d is cut off", n.id)
		for _, x := range w.nodes {
			if x != n {
				w.block(n.id, x.id)
				w.block(x.id, n.id)
			}
		}
	case 1: // nobody hears it
		w.tracef("nobody hears node %d", n.id)
		for _, x := range w.nodes {
			if x != n {
				w.block(n.id, x.id)
			}
		}
	case 2: // it hears nobody
		w.tracef("node %d hears nobody", n.id)
		for _, x := range w.nodes {
			if x != n {
				w.block(x.id, n.id)
			}
		}
	case 3: // one link; with three nodes the third one is a bridge
		if n != o {
			w.tracef("nodes %d and %d do not hear each other", n.id, o.id)
			w.block(n.id, o.id)
			w.block(o.id, n.id)
		}
	case 4: // two halves
		in := w.rng.Perm(len(w.nodes))[:len(w.nodes)/2]
		w.tracef("two halves: %v of the indexes are apart", in)
		for i, a := range w.nodes {
			for j, b := range w.nodes {
				if slices.Contains(in, i) != slices.Contains(in, j) {
					w.block(a.id, b.id)
				}
			}
		}
	}
}

func (w *world) cutStreams() {
	for _, c := range w.net.conns {
		if w.chance(50) {
			w.stats.cuts++
			w.tracef("the connection of nodes %d and %d is cut", c.end[0].id, c.end[1].id)
			c.cut()
		}
	}
}

// storm elects again and again.
func (w *world) storm() {
	p := w.ledger.order[w.rng.IntN(len(w.ledger.order))]
	for i := range 2 + w.rng.IntN(6) {
		w.after(time.Duration(i)*w.between(5*ms, 150*ms), func() {
			rp := w.ledger.image(p)
			if len(rp.ISR) == 0 {
				return
			}
			w.stats.elections++
			w.log.Commit(raft.ElectLeaders{ControllerEpoch: w.log.Head().Controller.Epoch, Partitions: []raft.Election{{
				TopicID: p.topicID, Partition: p.id.index, PartitionEpoch: rp.PartitionEpoch, Leader: rp.ISR[w.rng.IntN(len(rp.ISR))],
			}}})
		})
	}
}

// reassign gives a partition other replicas, or cancels that.
func (w *world) reassign() {
	p := w.ledger.order[w.rng.IntN(len(w.ledger.order))]
	rp := w.ledger.image(p)
	c := raft.Reassignment{TopicID: p.topicID, Partition: p.id.index, PartitionEpoch: rp.PartitionEpoch}
	if !rp.Reassigning() || w.chance(60) {
		rf := min(len(w.nodes), max(1, p.t.rf+w.rng.IntN(3)-1))
		for _, i := range w.rng.Perm(len(w.nodes))[:rf] {
			c.Replicas = append(c.Replicas, w.nodes[i].id)
		}
	}
	w.tracef("reassign %s to %v", p, c.Replicas)
	w.stats.reassigned++
	w.log.Commit(raft.ReassignPartitions{Partitions: []raft.Reassignment{c}})
}

// configure changes how many in-sync replicas a topic needs.
func (w *world) configure() {
	t := w.plan.topics[w.rng.IntN(len(w.plan.topics))]
	n := 1 + w.rng.IntN(3)
	w.tracef("%s: min.insync.replicas=%d", t.name, n)
	w.log.Commit(raft.AlterConfigs{Resources: []raft.ConfigChange{{
		Resource: raft.ConfigResource{Type: raft.ConfigTopic, Name: t.name}, Set: map[string]string{"min.insync.replicas": fmt.Sprint(n)},
	}}})
}

// wipe replaces a node's disk by an empty one.
func (w *world) wipe(n *node) {
	if !w.ledger.spare(n, true) {
		return
	}
	w.tracef("node %d gets an empty disk", n.id)
	w.stats.wipes++
	if n.up {
		n.crash(false)
	}
	w.ledger.taint(n, true)
	n.newDisk()
	w.after(w.between(50*ms, 5*time.Second), n.start)
}
