package sim

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"millrace/broker/replica"
	"millrace/engine"
	"millrace/engine/disk"
	"millrace/engine/disk/simdisk"
	"millrace/raft"
	"millrace/raft/controller"
)

// node is a machine with a disk and, while it is up, one process: a broker.
type node struct {
	w    *world
	id   int32
	disk *simdisk.Disk
	rng  *rand.Rand // of the ids and salts that its processes draw
	slow int        // how many times slower its disk is than usual
	dirs int        // directories so far: more than 1 after a disk was replaced

	inc      int // counts processes, also those that ended: what was meant for another one does not arrive
	up       bool
	frozen   time.Duration // until then the process stands still
	deferred []func()

	// Of the process.
	incarnation raft.UUID
	directory   raft.UUID
	e           *engine.Engine
	set         *replica.Set // nil before the registration is in the process's image
	streams     *streams
	seen        int   // images that its raft replica has: an index of world.log
	follows     int   // of those, what the partitions follow; -1: none
	epoch       int64 // of the registration; 0: not yet
	lease       controller.Lease
	answered    uint64 // controller epoch of the last answer
	stopping    bool
	mayStop     bool
	stepping    bool // a step of the engine is to come
	busy        bool // an ISR proposal is under way
	waits       []func() bool
}

// registration is what the broker keeps of its last one (see broker/registration.go).
type registration struct {
	epoch int64 // -1: none yet
	boot  string
	clean bool
}

const (
	dataDir          = "/data"
	registrationPath = dataDir + "/registration"
)

func newNode(w *world, id int32) *node {
	n := &node{w: w, id: id, slow: 1}
	n.newDisk()
	return n
}

// newDisk gives the machine an empty disk.
func (n *node) newDisk() {
	seed := n.w.rng.Uint64()
	n.disk = simdisk.New(seed)
	n.rng = rand.New(rand.NewPCG(seed, 3))
	n.dirs++
}

func (n *node) random(b []byte) {
	for len(b) > 0 {
		var word [8]byte
		binary.LittleEndian.PutUint64(word[:], n.rng.Uint64())
		b = b[copy(b, word[:]):]
	}
}

// run does something in the process that was meant, if it is still there, now or when it wakes up.
func (n *node) run(inc int, f func()) {
	switch {
	case inc != n.inc || !n.up:
		return
	case n.w.now < n.frozen:
		n.deferred = append(n.deferred, func() { n.run(inc, f) })
		return
	}
	f()
	n.afterwards(inc)
}

// after does something in this process in a while.
func (n *node) after(d time.Duration, f func()) {
	inc := n.inc
	n.w.after(d, func() { n.run(inc, f) })
}

// every does something in this process again and again.
func (n *node) every(d time.Duration, f func()) {
	n.after(d, func() { f(); n.every(d, f) })
}

// afterwards is the end of every event of a process: streams go on, and the end of a disk is noticed.
func (n *node) afterwards(inc int) {
	if n.inc != inc || !n.up {
		return
	}
	if n.streams != nil {
		n.streams.pump()
	}
	if n.disk.PowerIsOut() {
		n.crash(true)
		return
	}
	if n.e == nil {
		return
	}
	if err := n.e.Failed(); err != nil {
		n.w.fail("node %d: its disk failed without a fault: %v", n.id, err)
	}
	n.kick()
}

// kick lets the engine's driver run soon.
func (n *node) kick() {
	if n.stepping {
		return
	}
	n.stepping = true
	d := n.w.between(20*time.Microsecond, 600*time.Microsecond)
	if n.slow > 1 {
		d *= time.Duration(n.slow)
	}
	n.after(d, n.step)
}

func (n *node) step() {
	n.stepping = true // afterwards must not ask for one more
	busy := n.e.Step()
	if n.w.rng.IntN(4) == 0 {
		n.e.StepBackground()
	}
	n.stepping = false
	if !busy {
		n.stepping = true
		inc := n.inc
		// Nothing to do: the next event of this process will ask again.
		n.w.after(0, func() {
			if n.inc == inc {
				n.stepping = false
			}
		})
	}
}

// freeze lets the process stand still, as a virtual machine that is moved.
func (n *node) freeze(d time.Duration) {
	n.w.tracef("node %d stands still for %v", n.id, d)
	n.frozen = n.w.now + d
	inc := n.inc
	n.w.after(d, func() {
		if n.inc == inc {
			n.thaw()
		}
	})
}

// thaw lets a process go on that stood still: what has come meanwhile comes now.
func (n *node) thaw() {
	n.w.tracef("node %d goes on", n.id)
	todo := n.deferred
	n.deferred = nil
	for _, f := range todo {
		f()
	}
}

// start begins a process.
func (n *node) start() {
	if n.up {
		return
	}
	n.w.tracef("node %d starts", n.id)
	n.inc++
	n.up, n.stopping, n.mayStop, n.epoch, n.follows, n.busy, n.stepping, n.answered = true, false, false, 0, -1, false, false, 0
	n.frozen, n.deferred, n.waits = 0, nil, nil
	n.lease = controller.NewLease(1500 * ms)
	n.random(n.incarnation[:])
	e, err := engine.OpenSimulated(engine.Options{
		Dir: dataDir, FS: n.disk, NodeID: n.id, NewQueue: func(disk.Mode, int) (disk.Queue, string, error) { return n.disk.NewQueue(64), "", nil },
		CommitBytesMax: 16 << 10, RingBytes: 8 * 16 << 10, WALFileBytes: 128 << 10, WALBytes: 4 * 128 << 10, DiskReserveBytes: 1, OpenFilesMax: 8,
		Now:  n.w.wall,
		Warn: func(f string, a ...any) { n.w.tracef("node %d: "+f, append([]any{n.id}, a...)...) },
	}, engine.Simulation{Random: n.random, ChunkBytes: 16 << 10})
	if err != nil {
		if !n.disk.PowerIsOut() {
			n.w.fail("node %d: open: %v", n.id, err)
		}
		n.crash(true)
		return
	}
	n.e = e
	if r := e.Recovery(); len(r.Quarantined)+len(r.Damage)+len(r.Unknown) > 0 {
		n.w.fail("node %d: recovery found damage where there is none: %+v %+v %v", n.id, r.Quarantined, r.Damage, r.Unknown)
	}
	n.directory = e.DirectoryID()
	n.every(100*ms, n.e.StepClock)
	n.every(400*ms, n.catchUp)
	for _, v := range n.w.voters {
		if v.n == n {
			n.every(100*ms, v.tick)
		}
	}
	n.run(n.inc, n.join)
}

// join registers the process once a quorum answers.
func (n *node) join() {
	if !n.w.raftReaches(n) {
		n.after(100*ms, n.join)
		return
	}
	n.seen = n.w.log.Len() - 1
	n.register()
}

// register is what the broker does before anything else: see broker.registerInCluster.
func (n *node) register() {
	last := n.readRegistration()
	boot, err := n.disk.BootID()
	if err != nil {
		return
	}
	img := n.w.log.At(n.seen)
	cmd := raft.RegisterBrokerV2{
		RegisterBroker: raft.RegisterBroker{
			ID: n.id, DirectoryID: n.directory, IncarnationID: n.incarnation, Host: "h", Port: 1, MaxLevel: raft.MaxLevel, Fenced: true,
			ReplaceDirectory: n.dirs > 1, // an operator's word
		},
		PowerLost: last.powerLost(img, n.id, n.directory, boot),
	}
	if last == nil {
		n.writeRegistration(registration{epoch: -1, boot: boot})
	}
	n.tryRegister(cmd, boot)
}

func (n *node) tryRegister(cmd raft.RegisterBrokerV2, boot string) {
	n.propose(cmd, func(r raft.Result, err error) {
		switch {
		case err != nil:
			n.after(n.w.between(20*ms, 100*ms), func() { n.tryRegister(cmd, boot) })
			return
		case r.Code != raft.OK:
			n.w.fail("node %d: registration: %v", n.id, r.Err())
		}
		n.writeRegistration(registration{epoch: r.Value, boot: boot})
		n.epoch = r.Value
		n.w.tracef("node %d is registered: epoch %d, power lost %t", n.id, n.epoch, cmd.PowerLost)
		n.follow()
	})
}

func (r *registration) powerLost(img *raft.Image, id int32, directory raft.UUID, boot string) bool {
	known := img.Broker(id)
	switch {
	case r == nil:
		return known != nil && known.Epoch >= 0 && known.DirectoryID == directory
	case r.epoch == -1:
		return false
	case r.clean && known != nil && known.Epoch == r.epoch:
		return false
	}
	return r.boot != boot
}

func (n *node) readRegistration() *registration {
	b, err := disk.ReadFile(n.disk, registrationPath, 1000)
	if err != nil {
		return nil
	}
	r := new(registration)
	if _, err := fmt.Sscanf(string(b), "%d %s %t", &r.epoch, &r.boot, &r.clean); err != nil {
		n.w.fail("node %d: %q: %v", n.id, b, err)
	}
	return r
}

func (n *node) writeRegistration(r registration) {
	if err := disk.WriteFileAtomic(n.disk, registrationPath, fmt.Appendf(nil, "%d %s %t", r.epoch, r.boot, r.clean)); err != nil && !n.disk.PowerIsOut() {
		n.w.fail("node %d: %v", n.id, err)
	}
}

// catchUp takes the images that got lost on their way.
func (n *node) catchUp() {
	if n.w.raftReaches(n) && n.w.chance(50) {
		n.seen = n.w.log.Len() - 1
		n.follow()
	}
}

// follow lets the partitions follow the newest image, skipping what lies between.
func (n *node) follow() {
	img := n.w.log.At(n.seen)
	me := img.Broker(n.id)
	if n.epoch == 0 || n.seen == n.follows {
		return
	}
	if me == nil || me.Epoch < n.epoch {
		return // not its own registration yet
	}
	if me.Epoch > n.epoch {
		// A late proposal of a process that is no more: this one is not the registered one, and ends.
		n.w.tracef("node %d is stale: %d is registered, not %d", n.id, me.Epoch, n.epoch)
		n.crash(false)
		n.w.after(n.w.between(100*ms, time.Second), n.start)
		return
	}
	first := n.set == nil
	if first {
		n.streams = newStreams(n)
		n.set = replica.NewSet(replica.Options{
			Engine: n.e, NodeID: n.id, Settings: n.settings, Now: n.w.wall, Replicator: n.streams.replicator(),
			Lease:   func() bool { return n.lease.Valid(n.w.now) },
			Lag:     func() replica.Lag { return n.w.plan.lag },
			OnLead:  n.w.ledger.leads(n),
			Stopped: func(p *replica.Partition, err error) { n.w.ledger.stopped(n, p, err) },
		})
	}
	n.follows = n.seen
	if err := n.set.Apply(img); err != nil {
		if !n.disk.PowerIsOut() {
			n.w.fail("node %d: apply image %d: %v", n.id, img.Index, err)
		}
		return
	}
	n.streams.applied(img)
	if first {
		n.serve()
	}
}

// serve begins what a registered broker does all the time.
func (n *node) serve() {
	n.beat()
	n.every(300*ms, n.beat)
	n.every(50*ms, n.proposeISR)
	n.every(100*ms, func() {
		n.set.Expire(n.w.now.Nanoseconds())
		if err := n.set.Housekeep(); err != nil && !n.disk.PowerIsOut() {
			n.w.fail("node %d: housekeep: %v", n.id, err)
		}
	})
}

// settings are a topic's, as the broker reads them from the image.
func (n *node) settings(img *raft.Image, topic string) *replica.Settings {
	s := &replica.Settings{MaxMessageBytes: 10_000}
	c := img.TopicConfig(topic)
	s.Engine.SegmentBytes = 64 << 10
	s.Engine.FlushMillis = 300
	if v, err := strconv.ParseInt(c["flush.messages"], 10, 64); err == nil {
		s.Engine.FlushMessages = v
	}
	return s
}

// proposeISR is the broker's loop over replica.Set.ISRChanges.
func (n *node) proposeISR() {
	if n.busy || n.set == nil {
		return
	}
	changes := n.set.ISRChanges(n.w.wall())
	if len(changes) == 0 {
		return
	}
	n.busy = true
	n.w.tracef("node %d proposes ISRs: %s", n.id, describeChanges(changes))
	n.propose(raft.AlterPartitionsV2{BrokerID: n.id, BrokerEpoch: n.epoch, Partitions: changes}, func(r raft.Result, err error) {
		n.busy = false
		n.w.tracef("node %d hears of its ISRs: %v %v %v", n.id, r.Err(), r.Items, err)
		n.set.ISRChanged(changes, r, err)
	})
}

func describeChanges(changes []raft.ISRChangeV2) (s string) {
	for _, c := range changes {
		s += fmt.Sprintf("[topic %x-%d epochs %d,%d isr", c.TopicID[:2], c.Partition, c.LeaderEpoch, c.PartitionEpoch)
		for _, m := range c.ISR {
			s += fmt.Sprintf(" %d@%d", m.ID, m.BrokerEpoch)
		}
		s += "]"
	}
	return s
}

// beat sends heartbeats to every voter: see controller.Session.
func (n *node) beat() {
	h := controller.Heartbeat{BrokerID: n.id, BrokerEpoch: n.epoch, Index: n.w.log.At(n.follows).Index, Ready: true, Stopping: n.stopping}
	sent := n.w.now
	for _, v := range n.w.voters {
		n.w.net.send(n, v.n, func() {
			v.observe(h, func(a controller.Answer) {
				n.w.net.send(v.n, n, func() { n.heard(h, a, sent) })
			})
		})
	}
}

// heard takes a voter's answer to a heartbeat of this process.
func (n *node) heard(h controller.Heartbeat, a controller.Answer, sent time.Duration) {
	if h.BrokerEpoch != n.epoch || !a.Controller || a.Epoch < n.answered {
		return
	}
	n.answered = a.Epoch
	if a.Fenced {
		n.lease.End()
	} else {
		n.lease.Extend(sent)
	}
	if a.MayStop && n.stopping {
		n.mayStop = true
	}
}

// stop is a controlled shutdown: leaderships move, the ISR is left, all is flushed, the marker written.
func (n *node) stop() {
	if !n.up || n.set == nil || n.stopping {
		return
	}
	n.w.tracef("node %d stops in order", n.id)
	n.stopping = true
	n.beat()
	deadline := n.w.now + 5*time.Second
	var wait func()
	wait = func() {
		if !n.mayStop && n.w.now < deadline {
			n.after(50*ms, wait)
			return
		}
		n.close()
	}
	n.after(50*ms, wait)
}

// close ends the process cleanly.
func (n *node) close() {
	ctx := context.Background()
	boot, _ := n.disk.BootID()
	err := n.e.Close(ctx)
	n.e = nil
	if err == nil {
		n.writeRegistration(registration{epoch: n.epoch, boot: boot, clean: true})
	}
	if n.disk.PowerIsOut() {
		n.crash(true)
		return
	}
	if err != nil {
		n.w.fail("node %d: close: %v", n.id, err)
	}
	n.w.tracef("node %d has stopped in order", n.id)
	n.end()
}

// end takes the process away.
func (n *node) end() {
	n.inc++
	n.up, n.set, n.streams, n.e = false, nil, nil, nil
	n.deferred = nil
}

// crash ends the process where it stands: by the power, or by a signal.
func (n *node) crash(power bool) {
	if power {
		p := n.disk.RandomPolicy()
		n.w.tracef("node %d loses power: %+v", n.id, p)
		n.w.stats.powerCuts++
		n.disk.Crash(p)
	} else {
		n.w.tracef("node %d is killed", n.id)
		n.w.stats.kills++
		n.disk.Kill()
	}
	n.disk.CutAfter(0, nil)
	if n.e != nil {
		n.e.Abandon()
	}
	n.end()
}

// propose is raft.Node.Propose. answer is called in this process, unless it ends before.
func (n *node) propose(c raft.Command, answer func(raft.Result, error)) {
	inc := n.inc
	n.w.propose(n, c, func(r raft.Result, err error) { n.run(inc, func() { answer(r, err) }) })
}

var errNoAnswer = errors.New("no answer")
