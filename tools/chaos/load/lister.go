package load

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/tools/chaos/history"
)

// lister asks for the newest offset as a client does that remembers the newest leader epoch that it has heard of, in
// answers and while it fetched, and believes nobody who knows less. It is for one goroutine.
type lister struct {
	client *kgo.Client
	epochs map[history.Where]int32
}

// listTimeout bounds one question.
const listTimeout = 2 * time.Second

var errNoAnswer = errors.New("no leader that is new enough")

// heard remembers an epoch.
func (l *lister) heard(w history.Where, epoch int32) { l.epochs[w] = max(l.epochs[w], epoch) }

// newest asks the leader of a partition.
func (l *lister) newest(ctx context.Context, w history.Where) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	ask := kmsg.NewPtrMetadataRequest()
	topic := kmsg.NewMetadataRequestTopic()
	topic.Topic = kmsg.StringPtr(w.Topic)
	ask.Topics = append(ask.Topics, topic)
	m, err := ask.RequestWith(ctx, l.client)
	if err != nil {
		return 0, err
	}
	for _, t := range m.Topics {
		for _, p := range t.Partitions {
			if t.Topic == nil || *t.Topic != w.Topic || p.Partition != w.Partition || p.ErrorCode != 0 || p.LeaderEpoch < l.epochs[w] {
				continue
			}
			l.heard(w, p.LeaderEpoch)
			return l.ask(ctx, w, p.Leader)
		}
	}
	return 0, errNoAnswer
}

func (l *lister) ask(ctx context.Context, w history.Where, leader int32) (int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	topic := kmsg.NewListOffsetsRequestTopic()
	topic.Topic = w.Topic
	partition := kmsg.NewListOffsetsRequestTopicPartition()
	partition.Partition, partition.CurrentLeaderEpoch, partition.Timestamp = w.Partition, l.epochs[w], -1
	topic.Partitions = append(topic.Partitions, partition)
	req.Topics = append(req.Topics, topic)
	answer, err := l.client.Broker(int(leader)).Request(ctx, req)
	if err != nil {
		return 0, err
	}
	topics := answer.(*kmsg.ListOffsetsResponse).Topics //nolint:errcheck // the client pairs them
	if len(topics) != 1 || len(topics[0].Partitions) != 1 {
		return 0, errNoAnswer
	}
	p := &topics[0].Partitions[0]
	if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
		return 0, err
	}
	l.heard(w, p.LeaderEpoch)
	return p.Offset, nil
}
