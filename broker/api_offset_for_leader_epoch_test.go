package broker

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A new leader's high watermark may be below what its predecessor showed. A consumer that asks where its epoch ends must
// not be told of that: it would believe that what it has read is lost.
func TestEpochsEndWhereTheLogEnds(t *testing.T) {
	f := newFleet(t, 1, 2, 3)
	f.start(bootstrap, 1, 2, 3)
	three := "3"
	if _, err := kadm.NewClient(f.client(1)).CreateTopic(testContext(t), 1, 3, map[string]*string{"min.insync.replicas": &three}, "t"); err != nil {
		t.Fatal(err)
	}
	p := f.agree(1, 2, 3).Topic("t").Partitions[0]
	for _, id := range []int32{1, 2, 3} {
		if id != p.Leader {
			f.stopNode(id) // in an orderly way: the in-sync replicas are too few, and the high watermark stands still
			break
		}
	}
	b := f.b(p.Leader)
	lone := client(t, b, kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck()))
	const records = 7
	produceN(t, lone, "t", 0, records)
	if hw := b.partitions.Get("t", 0).HighWatermark(); hw != 0 {
		t.Fatalf("the high watermark is %d: nothing is tested", hw)
	}
	req := kmsg.NewPtrOffsetForLeaderEpochRequest()
	req.ReplicaID = -1
	topic := kmsg.NewOffsetForLeaderEpochRequestTopic()
	topic.Topic = "t"
	partition := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
	partition.CurrentLeaderEpoch, partition.LeaderEpoch = -1, b.partitions.Get("t", 0).Log().LeaderEpoch()
	topic.Partitions = append(topic.Partitions, partition)
	req.Topics = append(req.Topics, topic)
	got := ask[*kmsg.OffsetForLeaderEpochResponse](t, lone, req).Topics[0].Partitions[0]
	if got.ErrorCode != 0 || got.EndOffset != records || got.LeaderEpoch != partition.LeaderEpoch {
		t.Errorf("%+v, want the end of epoch %d at offset %d", got, partition.LeaderEpoch, records)
	}
}
