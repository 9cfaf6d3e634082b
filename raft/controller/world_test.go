package controller

import (
	"fmt"
	"testing"
	"time"

	"millrace/raft"
)

// world is a log of commands: the state of a cluster without raft.
type world struct {
	t     testing.TB
	m     *raft.Image
	term  uint64
	incar int
}

func id(n int) (u raft.UUID) {
	u[0], u[1], u[15] = byte(n>>8), byte(n), 1
	return u
}

func newWorld(t testing.TB, brokers ...int32) *world {
	w := &world{t: t, m: raft.EmptyImage()}
	w.ok(raft.FormCluster{ClusterID: "c", Level: raft.MaxLevel, Brokers: brokers})
	w.claim(1)
	return w
}

func (w *world) do(c raft.Command) raft.Result {
	w.t.Helper()
	m, r, err := w.m.Apply(w.m.Index+1, c)
	if err != nil {
		w.t.Fatal(err)
	}
	w.m = m
	return r
}

func (w *world) ok(c raft.Command) raft.Result {
	w.t.Helper()
	r := w.do(c)
	if r.Err() != nil {
		w.t.Fatalf("%T: %v", c, r.Err())
	}
	for _, i := range r.Items {
		if i.Err() != nil {
			w.t.Fatalf("%T: %v", c, i.Err())
		}
	}
	return r
}

func (w *world) claim(node int32) uint64 {
	w.term++
	return uint64(w.ok(raft.ClaimController{NodeID: node, Term: w.term}).Value)
}

func (w *world) register(broker int32, rack string, fenced bool) int64 {
	w.incar++
	return w.ok(raft.RegisterBrokerV2{RegisterBroker: raft.RegisterBroker{
		ID: broker, DirectoryID: id(int(broker) + 1), IncarnationID: id(w.incar), Host: "h", Rack: rack, MaxLevel: raft.MaxLevel, Fenced: fenced,
	}}).Value
}

func (w *world) create(name string, n int, assignments ...[]int32) {
	w.t.Helper()
	w.ok(raft.CreateTopics{Topics: []raft.NewTopic{{Name: name, ID: id(n), Assignments: assignments}}})
}

func (w *world) set(topic, key, value string) {
	w.t.Helper()
	r := raft.ConfigResource{Type: raft.ConfigTopic, Name: topic}
	if topic == "" {
		r = raft.ConfigResource{Type: raft.ConfigBroker}
	}
	w.ok(raft.AlterConfigs{Resources: []raft.ConfigChange{{Resource: r, Set: map[string]string{key: value}}}})
}

func (w *world) isr(topic string, isr ...int32) {
	w.t.Helper()
	t := w.m.Topic(topic)
	p := t.Partitions[0]
	c := raft.ISRChange{TopicID: t.ID, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch}
	for _, b := range isr {
		c.ISR = append(c.ISR, raft.ISRMember{ID: b, BrokerEpoch: w.m.Broker(b).Epoch})
	}
	w.ok(raft.AlterPartitionsV2{BrokerID: p.Leader, BrokerEpoch: w.m.Broker(p.Leader).Epoch, Partitions: []raft.ISRChangeV2{{ISRChange: c, Recovered: true}}})
}

func (w *world) beat(b int32) Heartbeat {
	return Heartbeat{BrokerID: b, BrokerEpoch: w.m.Broker(b).Epoch, Index: w.m.Index, Ready: true}
}

// apply ticks until nothing is left to decide, and returns why things were decided.
func (w *world) apply(c *Core, now time.Duration) (why []string) {
	w.t.Helper()
	for range 50 {
		decisions := c.Tick(now, w.m, w.m.Controller.Epoch)
		if len(decisions) == 0 {
			return why
		}
		for _, d := range decisions {
			if r := w.do(d.Command); r.Err() != nil {
				w.t.Fatalf("%s: %v", d.Why, r.Err())
			}
			why = append(why, d.Why)
		}
	}
	w.t.Fatalf("the controller never comes to rest: %v", why[len(why)-5:])
	return nil
}

const ms = time.Millisecond

// run lets time pass with heartbeats of the brokers named.
func (w *world) run(c *Core, from, to time.Duration, brokers ...int32) (why []string) {
	for now := from; now <= to; now += 100 * ms {
		for _, b := range brokers {
			if w.m.Broker(b) != nil {
				c.Observe(now, w.beat(b))
			}
		}
		for _, s := range w.apply(c, now) {
			why = append(why, fmt.Sprint(now, " ", s))
		}
	}
	return why
}
