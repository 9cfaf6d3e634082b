package controller

import (
	"fmt"
	"slices"
	"time"

	"millrace/raft"
	"millrace/raft/broken"
)

// Config are the controller's times and paces. Zero values are the defaults.
type Config struct {
	Session       time.Duration // 2 s without a heartbeat fences a broker
	Scan          time.Duration // 1 s between looks at all partitions
	PreferAfter   time.Duration // 5 s of a broker's presence before leaderships return to it
	UncleanAfter  time.Duration // 10 s without anybody eligible before an unclean election that the topic allows
	MovesAtOnce   int           // 100 leaderships a scan
	ReassignLimit int           // 20 partitions that move away from drained brokers at a time
}

func (c Config) withDefaults() Config {
	for _, d := range []struct {
		at    *time.Duration
		value time.Duration
	}{{&c.Session, 2 * time.Second}, {&c.Scan, time.Second}, {&c.PreferAfter, 5 * time.Second}, {&c.UncleanAfter, 10 * time.Second}} {
		if *d.at == 0 {
			*d.at = d.value
		}
	}
	if c.MovesAtOnce == 0 {
		c.MovesAtOnce = 100
	}
	if c.ReassignLimit == 0 {
		c.ReassignLimit = 20
	}
	return c
}

// Decision is a command to propose and why.
type Decision struct {
	Command raft.Command
	Why     string
	// Loud: an operator should read of it.
	Loud bool
}

// Core decides. It is pure: time is what Observe and Tick are told, readings of one monotonic clock.
type Core struct {
	c        Config
	brokers  map[int32]*observed
	last     time.Duration // of the last Tick
	ticked   bool
	scanned  time.Duration
	leads    bool // at the last Tick
	offline  map[partitionID]time.Duration
	scanSoon bool
}

// observed is what this voter itself has seen of a broker.
type observed struct {
	epoch   int64
	at      time.Duration // last heartbeat, or first sight of the epoch
	beat    *Heartbeat    // nil before the first one
	present time.Duration // unfenced since, as far as seen here
	fenced  bool
	gone    bool // nobody listens where it did, and it has said nothing since
}

type partitionID struct {
	topic raft.UUID
	index int32
}

// NewCore returns a core that has seen nothing.
func NewCore(c Config) *Core {
	return &Core{c: c.withDefaults(), brokers: map[int32]*observed{}, offline: map[partitionID]time.Duration{}}
}

// Observe takes a heartbeat. Voters that are not the controller observe too: one that becomes it knows by itself.
func (c *Core) Observe(now time.Duration, h Heartbeat) {
	o := c.brokers[h.BrokerID]
	switch {
	case o == nil:
		if len(c.brokers) >= 4096 {
			return // ids that nobody registers
		}
		o = &observed{fenced: true}
		c.brokers[h.BrokerID] = o
	case h.BrokerEpoch < o.epoch:
		return // of a process that is no more
	}
	if h.BrokerEpoch > o.epoch || o.beat == nil {
		o.epoch = h.BrokerEpoch
	}
	o.at, o.beat, o.gone = max(o.at, now), &h, false
}

// suspectAfter is how long a broker may be silent before somebody looks whether its process is still there: it has missed
// a heartbeat then.
const suspectAfter = 350 * time.Millisecond

// Suspects are the brokers that should be alive and have been silent for a moment.
func (c *Core) Suspects(now time.Duration, m *raft.Image) (ids []int32) {
	for _, b := range m.SortedBrokers() {
		if o := c.brokers[b.ID]; !b.Fenced && o != nil && !o.gone && now-o.at > suspectAfter {
			ids = append(ids, b.ID)
		}
	}
	return ids
}

// Gone says that a broker's process had ended at a time: its machine refused a connection. It need not be waited for. What was
// heard of it later counts more.
func (c *Core) Gone(at time.Duration, id int32) {
	if o := c.brokers[id]; o != nil && o.at <= at {
		o.gone = true
	}
}

// Tick returns what is to be proposed now. epoch is the controller epoch, 0 if this voter is not the controller. The
// caller proposes in order, and ticks again with an image that holds the outcome.
func (c *Core) Tick(now time.Duration, m *raft.Image, epoch uint64) []Decision {
	c.see(now, m)
	leads := epoch != 0
	if leads && !c.leads {
		c.scanSoon = true
	}
	c.leads = leads
	if !leads {
		clear(c.offline)
		return nil
	}
	out := c.sessions(now, m, epoch)
	if len(out) > 0 {
		c.scanSoon = true // who leads may have changed
		return out
	}
	if !c.scanSoon && now-c.scanned < c.c.Scan {
		return nil
	}
	c.scanSoon, c.scanned = false, now
	return c.scan(now, m, epoch)
}

// see keeps the observations in step with the image, and forgives what this process itself slept through.
func (c *Core) see(now time.Duration, m *raft.Image) {
	if gap := now - c.last; c.ticked && gap > c.c.Session/4 {
		for _, o := range c.brokers {
			o.at = min(o.at+gap, now)
		}
		for id := range c.offline {
			c.offline[id] += gap
		}
	}
	c.last, c.ticked = now, true
	for id, b := range m.Brokers {
		o := c.brokers[id]
		if o == nil || o.epoch < b.Epoch {
			o = &observed{epoch: b.Epoch, at: now, fenced: true}
			c.brokers[id] = o
		}
		if o.fenced && !b.Fenced {
			o.present = now
		}
		o.fenced = b.Fenced
	}
	for id := range c.brokers {
		if o := c.brokers[id]; m.Broker(id) == nil && now-o.at > time.Minute {
			delete(c.brokers, id)
		}
	}
}

// sessions fences, unfences and lets brokers go.
func (c *Core) sessions(now time.Duration, m *raft.Image, epoch uint64) (out []Decision) {
	for _, b := range m.SortedBrokers() {
		if b.Epoch < 0 {
			continue // announced only
		}
		o := c.brokers[b.ID]
		silent := now - o.at
		sick := ""
		switch {
		case o.gone:
			sick = "its process has ended, nobody listens on its cluster port"
		case silent > c.c.Session:
			sick = fmt.Sprintf("no heartbeat for %v", silent.Round(time.Millisecond))
		case o.beat == nil || o.epoch != b.Epoch:
		case o.beat.Failed:
			sick = "its data directory failed"
		case o.beat.FlushAge > c.c.Session:
			sick = fmt.Sprintf("a flush takes %v", o.beat.FlushAge)
		}
		switch {
		case !b.Fenced && sick != "":
			out = append(out, Decision{raft.FenceBroker{ID: b.ID, BrokerEpoch: b.Epoch, ControllerEpoch: epoch}, fmt.Sprintf("broker %d fenced: %s", b.ID, sick), true})
		case sick != "" || o.beat == nil || o.epoch != b.Epoch || o.beat.BrokerEpoch != b.Epoch:
		case !b.Fenced && !b.ShuttingDown && o.beat.Stopping:
			out = append(out, Decision{raft.ControlledShutdown{ID: b.ID, BrokerEpoch: b.Epoch, ControllerEpoch: epoch}, fmt.Sprintf("broker %d shuts down", b.ID), false})
		case b.Fenced && !b.ShuttingDown && o.beat.Ready && !o.beat.Stopping && o.beat.Index >= uint64(b.Epoch):
			out = append(out, Decision{raft.UnfenceBroker{ID: b.ID, BrokerEpoch: b.Epoch, ControllerEpoch: epoch}, fmt.Sprintf("broker %d unfenced", b.ID), false})
		}
	}
	return out
}

// scan looks at all partitions: elections, preferred leaders, drained brokers.
func (c *Core) scan(now time.Duration, m *raft.Image, epoch uint64) (out []Decision) {
	clean, unclean := raft.ElectLeaders{ControllerEpoch: epoch}, raft.ElectLeaders{ControllerEpoch: epoch}
	prefer := !isFalse(m.ClusterConfig()["auto.leader.rebalance.enable"])
	reassigning, seen := 0, map[partitionID]bool{}
	var lossy []string
	m.EachTopic(func(t *raft.Topic) bool {
		for i, p := range t.Partitions {
			if p.Reassigning() {
				reassigning++
			}
			e := raft.Election{TopicID: t.ID, Partition: int32(i), PartitionEpoch: p.PartitionEpoch, Leader: raft.NoBroker}
			switch {
			case p.Leader != raft.NoLeader:
				if to := c.better(now, m, p, prefer); to != raft.NoBroker && len(clean.Partitions) < c.c.MovesAtOnce {
					e.Leader = to
					clean.Partitions = append(clean.Partitions, e)
				}
			case eligible(m, p):
				clean.Partitions = append(clean.Partitions, e)
			default:
				id := partitionID{t.ID, int32(i)}
				seen[id] = true
				if _, ok := c.offline[id]; !ok {
					c.offline[id] = now
				}
				if now-c.offline[id] >= c.c.UncleanAfter && mayBeUnclean(m, t) && slices.ContainsFunc(p.Replicas, func(r int32) bool { return live(m, r) }) {
					e.Unclean = true
					unclean.Partitions = append(unclean.Partitions, e)
					lossy = append(lossy, fmt.Sprintf("%s-%d", t.Name, i))
				}
			}
		}
		return true
	})
	for id := range c.offline {
		if !seen[id] {
			delete(c.offline, id)
		}
	}
	if len(clean.Partitions) > 0 {
		sortElections(clean.Partitions)
		out = append(out, Decision{clean, fmt.Sprintf("%d leaders elected or moved", len(clean.Partitions)), false})
	}
	if len(unclean.Partitions) > 0 {
		sortElections(unclean.Partitions)
		slices.Sort(lossy)
		out = append(out, Decision{unclean, fmt.Sprintf("UNCLEAN election, acknowledged records may be lost, as the topics allow: %v", lossy), true})
	}
	if reassigning < c.c.ReassignLimit {
		if moves, left := Drain(m, c.c.ReassignLimit-reassigning); len(moves) > 0 {
			for _, command := range Commands(moves) {
				out = append(out, Decision{command, fmt.Sprintf("%d partitions leave drained brokers, %d have nowhere to go", len(moves), left), false})
			}
		}
	}
	return out
}

// better returns who should lead instead of a partition's leader: anybody willing where the leader is drained, and the
// preferred replica where it has been back for a while.
func (c *Core) better(now time.Duration, m *raft.Image, p *raft.Partition, prefer bool) int32 {
	if b := m.Broker(p.Leader); b != nil && b.Draining {
		for _, id := range p.Replicas {
			if slices.Contains(p.ISR, id) && live(m, id) && !m.Broker(id).Draining {
				return id
			}
		}
		return raft.NoBroker
	}
	first := p.Replicas[0]
	if !prefer || first == p.Leader || p.Reassigning() || !slices.Contains(p.ISR, first) || !live(m, first) || m.Broker(first).Draining {
		return raft.NoBroker
	}
	if o := c.brokers[first]; o == nil || now-o.present < c.c.PreferAfter {
		return raft.NoBroker
	}
	return first
}

func eligible(m *raft.Image, p *raft.Partition) bool {
	may := func(id int32) bool { return live(m, id) }
	return slices.ContainsFunc(p.ISR, may) || slices.ContainsFunc(p.ELR, may)
}

// mayBeUnclean asks the topic, then the cluster. Without a word of either records are worth more than service.
func mayBeUnclean(m *raft.Image, t *raft.Topic) bool {
	if broken.UncleanElection {
		return true
	}
	const key = "unclean.leader.election.enable"
	s, ok := m.TopicConfig(t.Name)[key]
	if !ok {
		s = m.ClusterConfig()[key]
	}
	return s == "true"
}

func isFalse(s string) bool { return s == "false" }

func sortElections(e []raft.Election) {
	slices.SortFunc(e, func(a, b raft.Election) int {
		if c := slices.Compare(a.TopicID[:], b.TopicID[:]); c != 0 {
			return c
		}
		return int(a.Partition) - int(b.Partition)
	})
}

// Heard reports how long ago a broker's last heartbeat arrived here, and the heartbeat; false if there was none.
func (c *Core) Heard(now time.Duration, broker int32) (time.Duration, Heartbeat, bool) {
	o := c.brokers[broker]
	if o == nil || o.beat == nil {
		return 0, Heartbeat{}, false
	}
	return now - o.at, *o.beat, true
}
