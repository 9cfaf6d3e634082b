package raft

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"millrace/engine/disk"
)

// largeImage has topics x partitions partitions on three brokers.
func largeImage(tb testing.TB, topics, partitions int) *Image {
	tb.Helper()
	m := newImage()
	index := uint64(0)
	do := func(c Command) {
		b, err := encodeCommand(c)
		if err != nil {
			tb.Fatal(err)
		}
		index++
		now, r, err := applyBytes(m, index, b)
		if err != nil || r.Err() != nil {
			tb.Fatalf("%+v, %v", r, err)
		}
		m = now
	}
	do(FormCluster{ClusterID: "x", Level: 1})
	for id := range int32(3) {
		do(RegisterBroker{ID: id, DirectoryID: testUUID(1), IncarnationID: testUUID(int(id) + 1), Host: "h", MaxLevel: 1})
	}
	do(BecomeController{NodeID: 1})
	for i := range topics {
		t := NewTopic{Name: fmt.Sprintf("topic-%06d", i)}
		t.ID[0], t.ID[1], t.ID[2] = byte(i>>16), byte(i>>8), byte(i)
		t.ID[15] = 1
		for p := range partitions {
			t.Assignments = append(t.Assignments, []int32{int32(p % 3), int32((p + 1) % 3), int32((p + 2) % 3)})
		}
		do(CreateTopics{Topics: []NewTopic{t}})
	}
	return m
}

func benchApply(b *testing.B, m *Image, c func(i int) Command) {
	var cmds [][]byte
	for i := range 64 {
		cmd, err := encodeCommand(c(i))
		if err != nil {
			b.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		_, r, err := applyBytes(m, m.Index+1, cmds[i%len(cmds)])
		if err != nil || r.Err() != nil || len(r.Items) > 0 && r.Items[0].Err() != nil {
			b.Fatalf("%+v, %v", r, err)
		}
	}
}

// BenchmarkAlterPartition: apply of one ISR change must take at most 50 us with 100,000 partitions.
func BenchmarkAlterPartition(b *testing.B) {
	for _, shape := range []struct{ topics, partitions int }{{1000, 100}, {100_000, 1}, {10, 10_000}} {
		b.Run(fmt.Sprintf("topics=%d/partitions=%d", shape.topics, shape.partitions), func(b *testing.B) {
			m := largeImage(b, shape.topics, shape.partitions)
			benchApply(b, m, func(i int) Command {
				t := m.SortedTopics()[i%shape.topics]
				p := t.Partitions[0]
				leader := m.Brokers[p.Leader]
				return AlterPartitions{BrokerID: leader.ID, BrokerEpoch: leader.Epoch, Partitions: []ISRChange{{
					TopicID: t.ID, ISR: []ISRMember{{leader.ID, leader.Epoch}},
				}}}
			})
		})
	}
}

func BenchmarkCreateTopic(b *testing.B) {
	for _, topics := range []int{100, 10_000} {
		b.Run(fmt.Sprint("topics=", topics), func(b *testing.B) {
			benchApply(b, largeImage(b, topics, 1), func(i int) Command {
				return CreateTopics{Topics: []NewTopic{{Name: fmt.Sprint("new-", i), ID: testUUID(1000 + i), Assignments: [][]int32{{0, 1, 2}}}}}
			})
		})
	}
}

func BenchmarkRegisterBroker(b *testing.B) {
	benchApply(b, largeImage(b, 10_000, 1), func(i int) Command {
		return RegisterBroker{ID: 0, DirectoryID: testUUID(1), IncarnationID: testUUID(1000 + i), Host: "h", MaxLevel: 1}
	})
}

func BenchmarkSnapshot(b *testing.B) {
	m := largeImage(b, 1000, 100)
	b.SetBytes(int64(len(encodeSnapshot(m))))
	for b.Loop() {
		encodeSnapshot(m)
	}
}

// BenchmarkCommit is how many commands a second three nodes commit with 100,000 partitions, over loopback connections
// and journals that are flushed, with so many proposals under way at the node that leads.
func BenchmarkCommit(b *testing.B) {
	g := newGroup(b, 1, 2, 3)
	for _, id := range g.first {
		o := g.options(id)
		o.Dir, o.FS, o.Cluster.Bootstrap = b.TempDir(), disk.OS(), true
		o.Cluster.TickMillis, o.Cluster.ElectionTicks = 0, 0 // as it comes
		_, err := g.open(o)
		must(b, err)
	}
	for _, id := range g.first {
		must(b, g.nodes[id].node.Form(patient(b)))
	}
	g.registered()
	n := g.controller(g.first...)
	const topics, partitions = 100, 1000
	for t := range topics {
		c := NewTopic{Name: fmt.Sprint("topic-", t), ID: testUUID(t + 1)}
		for p := range partitions {
			c.Assignments = append(c.Assignments, []int32{1 + int32(p)%3, 1 + int32(p+1)%3, 1 + int32(p+2)%3})
		}
		propose(b, n, CreateTopics{Topics: []NewTopic{c}})
	}
	var next atomic.Int64
	commit := func() error {
		i := next.Add(1)
		r, err := n.ProposeAgain(context.Background(), AlterConfigs{Resources: []ConfigChange{{
			Resource: ConfigResource{ConfigTopic, fmt.Sprint("topic-", i%topics)}, Set: map[string]string{"retention.ms": fmt.Sprint(i)},
		}}})
		return errors.Join(err, r.Err())
	}
	for _, underWay := range []int{1, 128} {
		b.Run(fmt.Sprint("under-way=", underWay), func(b *testing.B) {
			b.ReportAllocs()
			each := make([]int, underWay)
			for i := range b.N {
				each[i%underWay]++
			}
			var all sync.WaitGroup
			for _, n := range each {
				all.Go(func() {
					for range n {
						if err := commit(); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
		})
	}
}

// BenchmarkImageMemory reports the bytes that a partition takes.
func BenchmarkImageMemory(b *testing.B) {
	for _, shape := range []struct{ topics, partitions int }{{10_000, 1}, {100, 100}} {
		b.Run(fmt.Sprintf("topics=%d/partitions=%d", shape.topics, shape.partitions), func(b *testing.B) {
			for b.Loop() {
				var before, after runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&before)
				m := largeImage(b, shape.topics, shape.partitions)
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(m.PartitionCount()), "B/partition")
			}
		})
	}
}
