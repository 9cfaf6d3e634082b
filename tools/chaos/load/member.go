package load

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/tools/chaos/history"
)

// Member is a member of a group, again and again: it joins, reads for a while, leaves.
type Member struct {
	number int32
	group  string
	stays  bool // until the end, so that the group is never empty for long
	target *Target
	random *rand.Rand

	positions
}

// NewMember makes a member. The first of a group stays in it.
func NewMember(t *Target, group string, n int, seed uint64) *Member {
	return &Member{number: int32(FirstMember + n), group: group, stays: n == 0, target: t, random: rand.New(rand.NewPCG(seed, uint64(FirstMember+n)))}
}

// The time that a member belongs to its group, and is away.
const (
	memberMin = 3 * time.Second
	memberMax = 15 * time.Second
	awayMax   = 3 * time.Second
)

// Run joins and leaves until ctx ends. Members with staying ended go on, but do not leave any more.
func (m *Member) Run(ctx, staying context.Context) error {
	for op := int64(1); ctx.Err() == nil; {
		client, err := m.join()
		if err != nil {
			return err
		}
		leave := time.Now().Add(memberMin + time.Duration(m.random.Int64N(int64(memberMax-memberMin))))
		for ctx.Err() == nil && (m.stays || staying.Err() != nil || time.Now().Before(leave)) {
			m.poll(ctx, client, op)
			op++
		}
		client.CloseAllowingRebalance()
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(m.random.Int64N(int64(awayMax)))):
		}
	}
	return nil
}

func (m *Member) join() (*kgo.Client, error) {
	return m.target.client(append(consuming(), kgo.ConsumerGroup(m.group), kgo.ConsumeTopics(m.target.Topics...), kgo.BlockRebalanceOnPoll(),
		kgo.AutoCommitInterval(300*time.Millisecond), kgo.SessionTimeout(6*time.Second), kgo.HeartbeatInterval(500*time.Millisecond), kgo.RebalanceTimeout(10*time.Second),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, assigned map[string][]int32) {
			for topic, partitions := range assigned {
				for _, p := range partitions {
					m.target.Recorder.Add(history.Event{Kind: history.Assign, Client: m.number, Where: history.Where{Topic: topic, Partition: p}, Text: m.group})
				}
			}
		}))...)
}

func (m *Member) poll(ctx context.Context, client *kgo.Client, op int64) {
	polling, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	events := shown(client.PollFetches(polling), m.number, op, history.Poll)
	m.target.Recorder.Add(events...)
	for i := range events {
		if events[i].Kind == history.Poll {
			m.passed(events[i].Where, events[i].Offset)
		}
	}
	client.AllowRebalance()
}
