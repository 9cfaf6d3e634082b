package load

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/tools/chaos/history"
)

// sandbox is a cluster in memory, and everything that this package has at work on it.
type sandbox struct {
	t        *testing.T
	cluster  *kfake.Cluster
	target   *Target
	recorder *history.Recorder
}

const patience = 3 * time.Minute

func newSandbox(t *testing.T) *sandbox {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.SeedTopics(2, "a", "b"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	recorder, err := history.NewRecorder("")
	if err != nil {
		t.Fatal(err)
	}
	return &sandbox{t, c, &Target{Seeds: c.ListenAddrs(), Topics: []string{"a", "b"}, Partitions: 2, Recorder: recorder}, recorder}
}

// play runs the load until enough has happened, stops it and reads everything.
func (s *sandbox) play(enough func(history.Counts) bool) []history.Violation {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	loading, stopLoading := context.WithCancel(ctx)
	defer stopLoading()
	working, stopWorking := context.WithCancel(ctx)
	var producing, consuming sync.WaitGroup
	defer consuming.Wait()
	defer stopWorking()
	must := func(err error) {
		s.t.Helper()
		if err != nil {
			s.t.Fatal(err)
		}
	}
	for i := range 4 {
		p, err := NewProducer(s.target, i, 500, 100, 1)
		must(err)
		producing.Go(func() { p.Run(loading, ctx) })
	}
	var readers []*Reader
	for i := range 2 {
		r, err := NewReader(s.target, i, 1)
		must(err)
		readers = append(readers, r)
		consuming.Go(func() { r.Run(working) })
	}
	side := func(do func() error) {
		consuming.Go(func() {
			if err := do(); err != nil {
				s.t.Error(err)
			}
		})
	}
	var members []*Member
	for i := range 2 {
		m := NewMember(s.target, "g", i, 1)
		members = append(members, m)
		side(func() error { return m.Run(working, loading) })
	}
	side(func() error { return (&Committer{Target: s.target}).Run(working) })
	for i, address := range s.target.Seeds {
		side(func() error { return (&Watcher{Target: s.target, Node: i, Kafka: address}).Run(working) })
	}
	s.await(ctx, "the load", func() bool { return enough(s.recorder.Counts()) })
	stuck, err := (&Prober{Target: s.target}).Probe(ctx, patience)
	must(err)
	if len(stuck) > 0 {
		s.t.Errorf("stuck: %v", stuck)
	}
	stopLoading()
	producing.Wait()
	ends, err := s.target.Ends(ctx)
	must(err)
	s.await(ctx, "the consumers", func() bool {
		behind := false
		s.target.Everywhere(func(w history.Where) {
			group := max(members[0].Position(w), members[1].Position(w))
			behind = behind || group < ends[w] || slices.ContainsFunc(readers, func(r *Reader) bool { return r.Position(w) < ends[w] })
		})
		return !behind
	})
	stopWorking()
	consuming.Wait()
	_, err = Last(ctx, s.target)
	must(err)
	violations, counts, err := s.recorder.Finish()
	must(err)
	s.t.Logf("%+v", counts)
	return violations
}

func (s *sandbox) await(ctx context.Context, what string, done func() bool) {
	s.t.Helper()
	for !done() {
		select {
		case <-ctx.Done():
			s.t.Fatalf("%s: %+v after %v", what, s.recorder.Counts(), patience)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestLoadTellsTheTruth(t *testing.T) {
	s := newSandbox(t)
	// Leaders stay where they are: after a move this cluster tells consumers of losses that are none.
	violations := s.play(func(c history.Counts) bool {
		return c.Acked > 2000 && c.Shown > 2000 && c.Lists > 20 && c.Leaders >= 12
	})
	if len(violations) > 0 {
		t.Errorf("%v", violations)
	}
}

// A broker that acknowledges and forgets must be found out, with the clients as they are.
func TestAForgottenRecordIsFound(t *testing.T) {
	s := newSandbox(t)
	var once sync.Once
	s.cluster.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (answer kmsg.Response, err error, handled bool) { //nolint:revive // kfake's order
		s.cluster.KeepControl()
		req, ok := r.(*kmsg.ProduceRequest)
		if !ok || req.Acks != -1 || s.recorder.Counts().Acked < 200 || len(req.Topics) == 0 {
			return nil, nil, false
		}
		if records := req.Topics[0].Partitions[0].Records; int64(binary.BigEndian.Uint64(records[43:])) >= 0 {
			return nil, nil, false // idempotent: its next record would be refused
		}
		once.Do(func() { answer, handled = forget(req), true })
		return answer, nil, handled
	})
	violations := s.play(func(c history.Counts) bool { return c.Acked > 1000 && c.Shown > 1000 })
	if !slices.ContainsFunc(violations, func(v history.Violation) bool { return v.Rule == history.Short }) ||
		!slices.ContainsFunc(violations, func(v history.Violation) bool { return v.Rule == history.LostWrite }) {
		t.Errorf("a lost write was not found: %v", violations)
	}
}

// forgottenAt is an offset that nothing else reaches.
const forgottenAt = 100_000

// forget acknowledges a request at forgottenAt, and does not keep it.
func forget(req *kmsg.ProduceRequest) kmsg.Response {
	answer := req.ResponseKind().(*kmsg.ProduceResponse) //nolint:errcheck // it is
	answer.Version = req.Version
	for _, t := range req.Topics {
		topic := kmsg.NewProduceResponseTopic()
		topic.Topic, topic.TopicID = t.Topic, t.TopicID
		for _, p := range t.Partitions {
			partition := kmsg.NewProduceResponseTopicPartition()
			partition.Partition, partition.BaseOffset = p.Partition, forgottenAt
			topic.Partitions = append(topic.Partitions, partition)
		}
		answer.Topics = append(answer.Topics, topic)
	}
	return answer
}

// An end that goes back must be found out by the reader that asks for it.
func TestAnEndThatGoesBackIsFound(t *testing.T) {
	s := newSandbox(t)
	s.cluster.ControlKey(int16(kmsg.ListOffsets), func(r kmsg.Request) (kmsg.Response, error, bool) { //nolint:revive // kfake's order
		s.cluster.KeepControl()
		req, ok := r.(*kmsg.ListOffsetsRequest)
		if !ok || s.recorder.Counts().Lists < 10 || s.recorder.Counts().Lists > 20 || len(req.Topics) != 1 || len(req.Topics[0].Partitions) != 1 {
			return nil, nil, false
		}
		answer := req.ResponseKind().(*kmsg.ListOffsetsResponse) //nolint:errcheck // it is
		answer.Version = req.Version
		topic := kmsg.NewListOffsetsResponseTopic()
		topic.Topic = req.Topics[0].Topic
		partition := kmsg.NewListOffsetsResponseTopicPartition()
		partition.Partition, partition.Offset = req.Topics[0].Partitions[0].Partition, 0
		topic.Partitions = append(topic.Partitions, partition)
		answer.Topics = append(answer.Topics, topic)
		return answer, nil, true
	})
	violations := s.play(func(c history.Counts) bool { return c.Acked > 500 && c.Lists > 25 })
	if len(violations) == 0 || slices.ContainsFunc(violations, func(v history.Violation) bool { return v.Rule != history.ListBack }) {
		t.Errorf("%v", violations)
	}
}
