package load

import (
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/tools/chaos/history"
)

// Target is what the load is for.
type Target struct {
	Seeds      []string
	Topics     []string
	Partitions int32 // of each topic
	Recorder   *history.Recorder
}

// The numbers of clients. Producers begin at 0.
const (
	FirstReader    = 1000
	FirstMember    = 2000
	FirstCommitter = 3000
	FirstWatcher   = 4000
	LastReader     = 9000
	ProberNumber   = 900 // a producer
)

// Everywhere calls do for each partition.
func (t *Target) Everywhere(do func(history.Where)) {
	for _, topic := range t.Topics {
		for p := range t.Partitions {
			do(history.Where{Topic: topic, Partition: p})
		}
	}
}

// client makes a client that is quick to look for another broker.
func (t *Target) client(opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(t.Seeds...), kgo.DisableClientMetrics(), kgo.MetadataMinAge(50 * time.Millisecond), kgo.MetadataMaxAge(2 * time.Second),
		kgo.DialTimeout(2 * time.Second), kgo.RequestTimeoutOverhead(3 * time.Second),
		kgo.RetryBackoffFn(func(tries int) time.Duration { return min(20*time.Millisecond<<min(tries, 6), 500*time.Millisecond) }),
	}, opts...)...)
}
