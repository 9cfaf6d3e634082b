package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// rawProduceVersion is a version that every broker since Kafka 2.4 and up to today understands.
const rawProduceVersion = 9

// rawTail is what follows the batch in a request: the ends of partition, topic and request have no tags.
var rawTail = [3]byte{}

// place is a partition that a raw run writes to.
type place struct {
	topic     string
	partition int32
	leader    kadm.BrokerDetail
}

// rawTopics are the names of the topics of a run.
func rawTopics(o *Options) []string {
	names := []string{o.Topic}
	for i := 1; i < o.Topics; i++ {
		names = append(names, o.Topic+"-"+strconv.Itoa(i))
	}
	return names
}

// places are the partitions of t, and those of the run's other topics.
func places(ctx context.Context, o *Options, t target) ([]place, error) {
	var all []place
	for i, name := range rawTopics(o) {
		if i > 0 {
			of := *o
			of.Topic = name
			var err error
			if t, err = prepareTopic(ctx, &of, true); err != nil {
				return nil, err
			}
		}
		for _, p := range t.partitions {
			all = append(all, place{topic: name, partition: p, leader: t.leaders[p]})
		}
	}
	return all, nil
}

// rawHead is what stands before the batch in a request for one place, encoded once.
type rawHead struct {
	frame      []byte // with its size prefix
	responseAt int    // where the error code stands in the answer
}

// correlationAt is where a frame has its correlation number: after size, key and version.
const correlationAt = 8

func newRawHead(o *Options, at place, batch []byte) (*rawHead, error) {
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = rawProduceVersion, int16(o.Acks), int32(o.Timeout.Milliseconds())
	topic := kmsg.NewProduceRequestTopic()
	topic.Topic = at.topic
	part := kmsg.NewProduceRequestTopicPartition()
	part.Partition, part.Records = at.partition, batch
	topic.Partitions = append(topic.Partitions, part)
	req.Topics = append(req.Topics, topic)
	formatter := kmsg.NewRequestFormatter(kmsg.FormatterClientID("millrace-bench"))
	frame := formatter.AppendRequest(nil, req, 0)
	size := len(frame) - len(batch) - len(rawTail)
	if string(frame[size:size+len(batch)]) != string(batch) {
		return nil, errors.New("BUG: the batch is not where the request should have it")
	}
	return &rawHead{
		frame: append([]byte(nil), frame[:size]...),
		// Answer: correlation 4, tags 1, topic count 1, name, partition count 1, partition 4, then the error code.
		responseAt: 4 + 1 + 1 + len(binary.AppendUvarint(nil, uint64(len(at.topic)+1))) + len(at.topic) + 1 + 4,
	}, nil
}

// outcome reads an answer's error code and base offset.
func (h *rawHead) outcome(answer []byte) (base int64, err error) {
	if len(answer) < h.responseAt+10 {
		return 0, fmt.Errorf("an answer of %d bytes", len(answer))
	}
	if err := kerr.ErrorForCode(int16(binary.BigEndian.Uint16(answer[h.responseAt:]))); err != nil {
		return 0, err
	}
	return int64(binary.BigEndian.Uint64(answer[h.responseAt+2:])), nil
}
