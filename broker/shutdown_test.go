package broker

import (
	"testing"
	"time"

	"millrace/broker/config"

	"github.com/twmb/franz-go/pkg/kgo"
)

// TestShutdownWaitsForNobodysPatience ends a broker while a reader may wait ten minutes for records, and a member ten minutes
// for its group: startBroker's stop fails when that takes more than half a minute.
func TestShutdownWaitsForNobodysPatience(t *testing.T) {
	b, stop := startBroker(t, t.TempDir(), func(o *Options) {
		var err error
		if o.Config, err = config.New(map[string]string{
			"group.initial.rebalance.delay.ms": "600000", "group.max.session.timeout.ms": "1800000",
			"millrace.wal.bytes": "268435456", "millrace.tail.ring.bytes": "33554432",
		}); err != nil {
			t.Fatal(err)
		}
	})
	ctx := testContext(t)
	produceN(t, client(t, b), "patience", 0, 1)

	reader := client(t, b, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"patience": {0: kgo.NewOffset().AtEnd()}}), kgo.FetchMaxWait(10*time.Minute))
	go reader.PollFetches(ctx)

	member := client(t, b, kgo.ConsumerGroup("patience"), kgo.ConsumeTopics("patience"),
		kgo.SessionTimeout(10*time.Minute), kgo.RebalanceTimeout(10*time.Minute))
	go member.PollFetches(ctx)
	// The first JoinGroup is told its member id, the second one waits.
	for b.requests[1].Load() < 1 || b.requests[11].Load() < 2 {
		if ctx.Err() != nil {
			t.Fatal("the requests never came")
		}
		time.Sleep(10 * time.Millisecond)
	}
	stop()
}
