package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"millrace/broker/replica"
	"millrace/raft"
	"millrace/raft/controller"
	"millrace/raft/simraft"
)

// world is one run.
type world struct {
	seed   uint64
	rng    *rand.Rand
	now    time.Duration
	queue  eventHeap
	seq    uint64
	ids    int
	events int
	effect uint64

	plan      plan
	net       *network
	log       *simraft.Log
	nodes     []*node
	voters    []*voter
	leader    *voter // of the metadata shard, if its process is still leaderInc
	leaderInc int
	// For how long the shard has had no leader with a quorum, and when another one is elected.
	headless, patience time.Duration

	ledger    *ledger
	producers []*producer
	consumers []*consumer

	verbose bool
	trace   []string
	stats   stats
}

// plan is what a seed decides once.
type plan struct {
	nodes       int
	topics      []*topicPlan
	lag         replica.Lag
	controller  controller.Config
	proposals   simraft.Chances
	lateImages  int // of 100
	clientLoss  int // of 100
	recordBytes int
	dropFrames  int // of 1000
	flips       int // of 1000
	troubles    int
	faults      []int         // kinds of trouble
	pause       time.Duration // at most, between troubles
}

type topicPlan struct {
	name       string
	partitions int
	rf         int
	minISR     int
	relaxed    bool // flush.messages above 1
	unclean    bool
}

// stats prove that a run met what it claims to test.
type stats struct {
	acked, weak, weakLost, delivered        int
	kills, powerCuts, wipes, stops, unclean int
	stranded, elections, reassigned         int
	freezes, cuts, partitions, flips, drops int
}

func (s *stats) add(o stats) {
	s.acked += o.acked
	s.weak += o.weak
	s.weakLost += o.weakLost
	s.delivered += o.delivered
	s.kills += o.kills
	s.powerCuts += o.powerCuts
	s.wipes += o.wipes
	s.stops += o.stops
	s.unclean += o.unclean
	s.stranded += o.stranded
	s.elections += o.elections
	s.reassigned += o.reassigned
	s.freezes += o.freezes
	s.cuts += o.cuts
	s.partitions += o.partitions
	s.flips += o.flips
	s.drops += o.drops
}

func (w *world) next() int { w.ids++; return w.ids }

func (w *world) node(id int32) *node {
	if id < 1 || int(id) > len(w.nodes) {
		return nil
	}
	return w.nodes[id-1]
}

// draw makes the plan of a seed.
func (w *world) draw() {
	r := w.rng
	p := &w.plan
	p.nodes = 3 + []int{0, 0, 0, 1, 2}[r.IntN(5)]
	p.lag = replica.Lag{Time: w.between(time.Second, 6*time.Second)}
	if r.IntN(6) == 0 {
		p.lag.Messages = int64(5 + r.IntN(50))
	}
	p.controller = controller.Config{PreferAfter: 3 * time.Second, UncleanAfter: 2 * time.Second, Scan: 500 * ms}
	p.proposals = usualProposals()
	if r.IntN(3) == 0 { // changes of the ISR stay in the air
		p.proposals = simraft.Chances{Drop: 15, Lose: 10, Late: 25, Max: 8 * time.Second}
	}
	p.lateImages = []int{0, 3, 15, 40}[r.IntN(4)]
	p.clientLoss = []int{0, 1, 5}[r.IntN(3)]
	p.recordBytes = []int{20, 200, 1500}[r.IntN(3)]
	if r.IntN(6) == 0 {
		p.dropFrames = 5
	}
	if r.IntN(8) == 0 {
		p.flips = 10
	}
	p.troubles = 12 + r.IntN(18)
	p.faults = w.drawFaults()
	p.pause = []time.Duration{100 * ms, 300 * ms, time.Second, 3 * time.Second}[r.IntN(4)]
	for i := range 1 + r.IntN(2) {
		t := &topicPlan{name: fmt.Sprintf("t%d", i), partitions: 1 + r.IntN(2)}
		t.rf = min(p.nodes, []int{3, 3, 3, 3, 2, 1}[r.IntN(6)])
		t.minISR = min(t.rf, 1+r.IntN(2))
		t.relaxed = r.IntN(4) == 0
		t.unclean = r.IntN(8) == 0
		p.topics = append(p.topics, t)
	}
}

// newWorld forms a cluster and creates its topics.
func newWorld(seed uint64, verbose bool) *world {
	w := &world{seed: seed, rng: rand.New(rand.NewPCG(seed, 0x636c7573746572)), effect: 14695981039346656037, verbose: verbose, patience: time.Second}
	w.net = &network{w: w, blocked: map[[2]int32]bool{}, slow: map[[2]int32]time.Duration{}}
	w.ledger = newLedger(w)
	w.log = simraft.New(w.rng)
	w.log.Failed = func(c raft.Command, err error) { w.fail("%T: %v", c, err) }
	w.draw()
	return w
}

// begin brings the cluster up.
func (w *world) begin() {
	w.log.Committed = w.committed
	later := w.plan.proposals
	w.plan.proposals = simraft.Chances{}
	form := raft.FormCluster{ClusterID: "sim", Level: raft.MaxLevel}
	for i := range w.plan.nodes {
		n := newNode(w, int32(i+1))
		w.nodes = append(w.nodes, n)
		form.Brokers = append(form.Brokers, n.id)
		if i < 3 {
			w.voters = append(w.voters, &voter{w: w, n: n, index: i})
		}
	}
	w.log.Commit(form)
	for _, n := range w.nodes {
		n.start()
	}
	w.lead(w.voters[0])
	w.every(100*ms, w.elect)
	w.every(20*ms, func() { w.log.Pass(w.now) })
	w.every(200*ms, func() { w.net.look(200 * ms) })
	if !w.until(20*time.Second, func() bool { return w.allLive() }) {
		w.fail("the brokers do not come up: %s", w.describe())
	}
	for _, t := range w.plan.topics {
		w.create(t)
	}
	w.pass(100 * ms)
	w.plan.proposals = later
	w.clients()
	w.pass(500 * ms)
}

func (w *world) create(t *topicPlan) {
	id := raft.UUID{byte(len(w.ledger.order) + 1), 1}
	a, err := controller.Place(w.log.Head(), t.partitions, t.rf, w.rng.Uint64())
	if err != nil {
		w.fail("placement: %v", err)
	}
	c := map[string]string{"min.insync.replicas": fmt.Sprint(t.minISR)}
	if t.relaxed {
		c["flush.messages"] = "1000"
	}
	if t.unclean {
		c["unclean.leader.election.enable"] = "true"
	}
	for i := range t.partitions {
		w.ledger.add(t, int32(i), id)
	}
	w.log.Commit(raft.CreateTopics{Topics: []raft.NewTopic{{Name: t.name, ID: id, Assignments: a, Configs: c}}})
}

// clients sets producers and consumers to work.
func (w *world) clients() {
	for i, p := range w.ledger.order {
		for j := range 1 + w.rng.IntN(2) {
			w.producers = append(w.producers, &producer{
				w: w, id: int64(i*10 + j), p: p, acks: -1, inflightMax: 1 + w.rng.IntN(4), meta: metadata{raft.NoLeader, -1}, lines: lines{},
			})
		}
		if w.rng.IntN(3) == 0 {
			w.producers = append(w.producers, &producer{
				w: w, id: int64(weakProducers + i), p: p, acks: 1, inflightMax: 2, meta: metadata{raft.NoLeader, -1}, lines: lines{},
			})
		}
		for j := range 2 {
			w.consumers = append(w.consumers, &consumer{w: w, p: p, followers: j == 1, meta: metadata{raft.NoLeader, -1}, lines: lines{}})
		}
	}
	for _, pr := range w.producers {
		w.every(w.between(30*ms, 120*ms), pr.produce)
	}
	for _, c := range w.consumers {
		w.every(w.between(40*ms, 150*ms), c.poll)
	}
}

func (w *world) allLive() bool {
	for _, n := range w.nodes {
		b := w.log.Head().Broker(n.id)
		if !n.awake() || n.set == nil || b == nil || b.Fenced || b.ShuttingDown || b.Epoch != n.epoch {
			return false
		}
	}
	return true
}

// describe says how things are.
func (w *world) describe() (s string) {
	m := w.log.Head()
	for _, n := range w.nodes {
		b := m.Broker(n.id)
		s += fmt.Sprintf("\n  node %d: up %t, frozen until %v, epoch %d, registered %+v", n.id, n.up, n.frozen, n.epoch, b)
	}
	for _, t := range m.SortedTopics() {
		for i, p := range t.Partitions {
			s += fmt.Sprintf("\n  %s-%d: %+v (min ISR %d)", t.Name, i, *p, m.MinISR(t, p))
			for _, n := range w.nodes {
				if !n.up || n.set == nil {
					continue
				}
				if rp := n.set.Get(t.Name, int32(i)); rp != nil {
					e, leads := rp.LeaderEpoch()
					s += fmt.Sprintf("\n    node %d: epoch %d, leads %t, log %d to %d, acknowledges %d, high watermark %d", n.id, e, leads, rp.Log().LogStartOffset(), rp.Log().AppendedEnd(), rp.AckEnd(), rp.HighWatermark())
				}
			}
		}
	}
	for _, p := range w.producers {
		s += fmt.Sprintf("\n  producer %d of %s: acks %d, %d acknowledged, %d wait, last at %v, believes %+v", p.id, p.p, p.acks, p.acked, len(p.queue), p.ackedAt, p.meta)
	}
	return s
}

func (w *world) traceCommand(old, now *raft.Image, c raft.Command, r raft.Result) {
	w.tracef("committed %d: %T %v %s", now.Index, c, r.Code, r.Detail)
	for _, change := range raft.TopicChanges(old, now) {
		if change.New == nil {
			continue
		}
		for i, p := range change.New.Partitions {
			if o := change.Old.Partition(int32(i)); o != p {
				w.tracef("    %s-%d: leader %d epoch %d/%d isr %v elr %v replicas %v unclean %d recovering %t", change.New.Name, i, p.Leader, p.LeaderEpoch, p.PartitionEpoch, p.ISR, p.ELR, p.Replicas, p.UncleanEpoch, p.Recovering)
			}
		}
	}
}

// run is a whole run.
func (w *world) run() {
	w.begin()
	for range w.plan.troubles {
		w.trouble()
		w.pass(w.between(20*ms, w.plan.pause))
	}
	w.heal()
}

// heal ends all trouble and waits until all is well.
func (w *world) heal() {
	w.tracef("all is healed")
	w.calm()
	if !w.until(60*time.Second, func() bool { w.rescue(); return w.allLive() && w.allInSync() }) {
		w.fail("the cluster does not recover: %s", w.describe())
	}
	healed := w.now
	for _, p := range w.producers {
		p.ackedAt = 0
	}
	if !w.until(20*time.Second, func() bool {
		return !slices.ContainsFunc(w.producers, func(p *producer) bool { return p.ackedAt <= healed })
	}) {
		w.fail("no progress after healing: %s", w.describe())
	}
	for _, p := range w.producers {
		p.stopped = true
	}
	if !w.until(20*time.Second, w.quiet) {
		w.fail("the cluster does not come to rest: %s", w.describe())
	}
	w.ledger.check()
	for _, n := range w.nodes {
		w.note(int64(n.disk.EffectHash()))
	}
}

// calm takes every trouble away.
func (w *world) calm() {
	clear(w.net.blocked)
	clear(w.net.slow)
	w.net.lossy, w.plan.lateImages, w.plan.clientLoss, w.plan.proposals = 0, 0, 0, simraft.Chances{}
	w.plan.dropFrames, w.plan.flips = 0, 0
	for _, c := range w.net.conns {
		c.drop = 0
	}
	for _, n := range w.nodes {
		n.slow = 1
		n.disk.CutAfter(0, nil)
		if n.frozen > w.now {
			n.frozen = w.now
			n.thaw()
		}
		w.every(time.Second, n.start) // whoever is still to end will be back
	}
}

// rescue is an operator's last resort, for partitions of which every trusted copy was destroyed.
func (w *world) rescue() {
	m := w.log.Head()
	if !w.allLive() {
		return
	}
	for _, p := range w.ledger.order {
		rp := w.ledger.image(p)
		if rp.Leader != raft.NoLeader || len(rp.ISR)+len(rp.ELR) > 0 {
			continue
		}
		if !p.mayStrand && !p.t.unclean {
			w.fail("%s has nobody who may lead it: %s", p, w.describe())
		}
		if !p.strands {
			p.strands = true
			w.stats.stranded++
		}
		w.log.Commit(raft.ElectLeaders{ControllerEpoch: m.Controller.Epoch, Partitions: []raft.Election{{
			TopicID: p.topicID, Partition: p.id.index, PartitionEpoch: rp.PartitionEpoch, Leader: raft.NoBroker, Unclean: true,
		}}})
	}
}

func (w *world) allInSync() bool {
	for _, p := range w.ledger.order {
		rp := w.ledger.image(p)
		if rp.Leader == raft.NoLeader || len(rp.ISR) != len(rp.Replicas) || rp.Reassigning() || rp.Recovering {
			return false
		}
	}
	return true
}

// quiet reports whether nobody waits and all replicas have all.
func (w *world) quiet() bool {
	if !w.allInSync() {
		return false
	}
	for _, p := range w.producers {
		if len(p.queue) > 0 {
			return false
		}
	}
	for _, p := range w.ledger.order {
		rp := w.ledger.image(p)
		var end int64 = -1
		for _, id := range rp.Replicas {
			n := w.node(id)
			if n.set == nil {
				return false
			}
			x := n.set.Get(p.id.topic, p.id.index)
			if x == nil || x.HighWatermark() != x.Log().AppendedEnd() || end >= 0 && x.HighWatermark() != end {
				return false
			}
			end = x.HighWatermark()
		}
	}
	return true
}
