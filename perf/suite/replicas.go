package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"millrace/tools/millrace/bench"
)

// minInSync is min.insync.replicas of every topic on a cluster.
const minInSync = "2"

const (
	// inSyncTimeout bounds how long replicas may take to be complete where nothing is to be caught up.
	inSyncTimeout = 3 * time.Minute
	// replicaPoll is how often the metadata is looked at.
	replicaPoll = 100 * time.Millisecond
)

// topicShape is a topic as a load asks for it.
type topicShape struct {
	name       string
	partitions int
}

// partitionState is what a cluster says of a partition.
type partitionState struct {
	leader, epoch int32
	replicas, isr []int32 // sorted
}

func (p *partitionState) String() string {
	return fmt.Sprintf("leader %d in epoch %d, in sync %v of %v", p.leader, p.epoch, p.isr, p.replicas)
}

// topicState is a topic's partitions by number, and the topic's id.
type topicState struct {
	id         kadm.TopicID
	partitions map[int32]*partitionState
}

// observer asks a cluster about its topics, past the client's cache.
type observer struct {
	srv    *server
	client *kgo.Client
}

// seeds are what a client begins with.
func (srv *server) seeds() []kgo.Opt {
	return []kgo.Opt{kgo.SeedBrokers(strings.Split(srv.addr, ",")...)}
}

// observer connects; close closes it.
func (srv *server) observer() (*observer, error) {
	client, err := kgo.NewClient(append(srv.seeds(), kgo.DisableClientMetrics(), kgo.MetadataMinAge(replicaPoll/2),
		kgo.DialTimeout(time.Second), kgo.RetryTimeout(10*time.Second))...)
	if err != nil {
		return nil, err
	}
	return &observer{srv, client}, nil
}

func (o *observer) close() { o.client.Close() }

// state is what some broker says of a topic now. A partition that has no leader has leader -1.
func (o *observer) state(ctx context.Context, topic string) (*topicState, error) {
	req := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = kmsg.StringPtr(topic)
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, o.client)
	if err != nil {
		return nil, err
	}
	if len(resp.Topics) != 1 {
		return nil, kerr.UnknownTopicOrPartition
	}
	found := &resp.Topics[0]
	if err := kerr.ErrorForCode(found.ErrorCode); err != nil {
		return nil, err
	}
	s := &topicState{id: found.TopicID, partitions: map[int32]*partitionState{}}
	for _, p := range found.Partitions {
		s.partitions[p.Partition] = &partitionState{p.Leader, p.LeaderEpoch, slices.Sorted(slices.Values(p.Replicas)), slices.Sorted(slices.Values(p.ISR))}
	}
	return s, nil
}

// controller is the node that decides: the leader of the metadata's quorum. Metadata would not do, where Kafka names
// any broker.
func (o *observer) controller(ctx context.Context) (int32, error) {
	req := kmsg.NewPtrDescribeQuorumRequest()
	t := kmsg.NewDescribeQuorumRequestTopic()
	t.Topic = "__cluster_metadata"
	t.Partitions = append(t.Partitions, kmsg.NewDescribeQuorumRequestTopicPartition())
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, o.client)
	if err != nil {
		return 0, err
	}
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return 0, err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return 0, errors.New("the metadata's quorum is not described")
	}
	p := &resp.Topics[0].Partitions[0]
	return p.LeaderID, kerr.ErrorForCode(p.ErrorCode)
}

// await waits until a topic is as it is wanted; want says what is missing, or nothing.
func (o *observer) await(ctx context.Context, topic string, atMost time.Duration, want func(*topicState) string) (*topicState, error) {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	for {
		missing := ""
		s, err := o.state(ctx, topic)
		if err != nil {
			missing = err.Error()
		} else if missing = want(s); missing == "" {
			return s, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("topic %s after %v: %s", topic, atMost, missing)
		case <-time.After(replicaPoll / 2):
		}
	}
}

// inSync says which partition has no leader or fewer than n replicas in sync.
func inSync(n int) func(*topicState) string {
	return func(s *topicState) string {
		for _, i := range slices.Sorted(maps.Keys(s.partitions)) {
			if p := s.partitions[i]; p.leader < 0 || len(p.isr) < n {
				return fmt.Sprintf("partition %d: %v", i, p)
			}
		}
		return ""
	}
}

// led says which partition's leader does not answer as such yet.
func (o *observer) led(ctx context.Context, topic string) error {
	ends, err := kadm.NewClient(o.client).ListEndOffsets(ctx, topic)
	return errors.Join(err, ends.Error())
}

// makeTopic makes a topic with a replica on every broker, unless it is there, and waits until all are in sync and the
// leaders answer.
func (o *observer) makeTopic(ctx context.Context, t topicShape) (*topicState, error) {
	minimum := minInSync
	ctx, cancel := context.WithTimeout(ctx, inSyncTimeout)
	defer cancel()
	for {
		_, err := kadm.NewClient(o.client).CreateTopic(ctx, int32(t.partitions), clusterNodes, map[string]*string{"min.insync.replicas": &minimum}, t.name)
		if err == nil || errors.Is(err, kerr.TopicAlreadyExists) {
			break
		}
		// Brokers answer before all of them are registered.
		if !errors.Is(err, kerr.InvalidReplicationFactor) && !kerr.IsRetriable(err) || ctx.Err() != nil {
			return nil, fmt.Errorf("create topic %s: %w", t.name, err)
		}
		sleep(ctx, replicaPoll)
	}
	s, err := o.await(ctx, t.name, inSyncTimeout, func(s *topicState) string {
		if missing := inSync(clusterNodes)(s); missing != "" {
			return missing
		}
		if len(s.partitions) != t.partitions {
			return fmt.Sprintf("%d partitions, not %d", len(s.partitions), t.partitions)
		}
		if err := o.led(ctx, t.name); err != nil {
			return err.Error()
		}
		return ""
	})
	if err == nil {
		o.srv.lead = o.srv.index(s.partitions[0].leader)
	}
	return s, err
}

// index is the place of a node among the server's.
func (srv *server) index(id int32) int {
	return max(0, slices.IndexFunc(srv.nodes, func(n *node) bool { return n.id == id }))
}

// replicated runs a load. On a cluster it makes the load's topic before, watches its replicas meanwhile, and compares
// them afterwards if check is set; what it finds makes the run void.
func (srv *server) replicated(ctx context.Context, t topicShape, check bool, load func() (*bench.Report, *observed, error)) (*bench.Report, *observed, error) {
	if !srv.cluster() {
		return load()
	}
	obs, err := srv.observer()
	if err != nil {
		return nil, nil, err
	}
	defer obs.close()
	before, err := obs.makeTopic(ctx, t)
	if err != nil {
		return nil, nil, err
	}
	changes := srv.sample().metrics[metricShrinks]
	watch := obs.watch(ctx, t.name, before)
	report, o, loadErr := load()
	found := watch()
	if report == nil || o == nil {
		return report, o, errors.Join(append([]error{loadErr}, asErrors(found)...)...)
	}
	if more := srv.sample().metrics[metricShrinks] - changes; more > 0 {
		found = append(found, fmt.Sprintf("replicas left the ISR %.0f times", more))
	}
	o.void = append(o.void, found...)
	if check {
		if err := obs.sameReplicas(ctx, t.name); err != nil {
			o.void = append(o.void, err.Error())
		}
	}
	return report, o, loadErr
}

// metricShrinks counts what polling might miss. Kafka has no such page: there the polls must do.
const metricShrinks = "millrace_isr_shrinks_total"

func asErrors(texts []string) (all []error) {
	for _, t := range texts {
		all = append(all, errors.New(t))
	}
	return all
}

// watch looks at a topic again and again until it is told to stop, and returns what has changed.
func (o *observer) watch(ctx context.Context, topic string, before *topicState) (stop func() []string) {
	ctx, cancel := context.WithCancel(ctx)
	var changes []string
	var watching sync.WaitGroup
	watching.Go(func() {
		for ctx.Err() == nil && len(changes) == 0 {
			if now, err := o.state(ctx, topic); err == nil {
				changes = changed(before, now)
			}
			sleep(ctx, replicaPoll)
		}
	})
	return func() []string {
		cancel()
		watching.Wait()
		return changes
	}
}

// changed says which leaders and in-sync replicas are others than before.
func changed(before, now *topicState) (changes []string) {
	for _, i := range slices.Sorted(maps.Keys(before.partitions)) {
		was, is := before.partitions[i], now.partitions[i]
		switch {
		case is == nil:
			changes = append(changes, fmt.Sprintf("partition %d has gone", i))
		case is.leader != was.leader || is.epoch != was.epoch || !slices.Equal(is.isr, was.isr):
			changes = append(changes, fmt.Sprintf("partition %d was: %v, and became: %v", i, was, is))
		}
	}
	return changes
}

// contents is what a replica holds from its start: where it ends, and a sum over all batches.
type contents struct {
	end int64
	sum uint64
}

// sameReplicas reads every replica of a topic from its own broker, up to where the leader ends, and says which is not
// byte for byte the leader's.
func (o *observer) sameReplicas(ctx context.Context, topic string) error {
	s, err := o.state(ctx, topic)
	if err != nil {
		return err
	}
	admin := kadm.NewClient(o.client)
	starts, startErr := admin.ListStartOffsets(ctx, topic)
	ends, endErr := admin.ListEndOffsets(ctx, topic)
	if err := errors.Join(startErr, endErr, starts.Error(), ends.Error()); err != nil {
		return err
	}
	seed := maphash.MakeSeed()
	for _, i := range slices.Sorted(maps.Keys(s.partitions)) {
		start, _ := starts.Lookup(topic, i)
		end, _ := ends.Lookup(topic, i)
		p := s.partitions[i]
		leader, err := o.read(ctx, p.leader, s.id, topic, i, start.Offset, end.Offset, seed)
		if err != nil {
			return fmt.Errorf("partition %d on its leader %d: %w", i, p.leader, err)
		}
		for _, id := range p.replicas {
			if id == p.leader {
				continue
			}
			follower, err := o.read(ctx, id, s.id, topic, i, start.Offset, end.Offset, seed)
			if err != nil {
				return fmt.Errorf("partition %d on broker %d: %w", i, id, err)
			}
			if follower != leader {
				return fmt.Errorf("partition %d on broker %d is not what its leader %d holds", i, id, p.leader)
			}
		}
	}
	return nil
}

const (
	readBytes = 8 << 20
	// followTimeout bounds how long a follower may not know what its leader has acknowledged.
	followTimeout = 10 * time.Second
)

// read reads a replica from one broker, whether it leads or follows. Followers show what they know to be committed,
// which may take a moment.
func (o *observer) read(ctx context.Context, broker int32, id kadm.TopicID, topic string, partition int32, from, to int64, seed maphash.Seed) (contents, error) {
	var sum maphash.Hash
	sum.SetSeed(seed)
	c := contents{end: from}
	moved := time.Now()
	for c.end < to {
		req := kmsg.NewPtrFetchRequest()
		req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 100, 1, readBytes
		t := kmsg.NewFetchRequestTopic()
		t.Topic, t.TopicID = topic, id
		p := kmsg.NewFetchRequestTopicPartition()
		p.Partition, p.FetchOffset, p.PartitionMaxBytes = partition, c.end, readBytes
		t.Partitions = append(t.Partitions, p)
		req.Topics = append(req.Topics, t)
		answer, err := o.client.Broker(int(broker)).RetriableRequest(ctx, req)
		if err != nil {
			return c, err
		}
		data, err := fetched(answer.(*kmsg.FetchResponse))
		if err != nil && !kerr.IsRetriable(err) {
			return c, err
		}
		before := c.end
		if c.end, err = walk(data, c.end, to, &sum); err != nil {
			return c, err
		}
		switch {
		case c.end > before:
			moved = time.Now()
		case time.Since(moved) > followTimeout:
			return c, fmt.Errorf("it shows offsets up to %d, %d are acknowledged", c.end, to)
		case ctx.Err() != nil:
			return c, ctx.Err()
		}
	}
	c.sum = sum.Sum64()
	return c, nil
}

// fetched is the one partition of a response.
func fetched(resp *kmsg.FetchResponse) ([]byte, error) {
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return nil, err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return nil, errors.New("no partition in the answer")
	}
	p := &resp.Topics[0].Partitions[0]
	return p.RecordBatches, kerr.ErrorForCode(p.ErrorCode)
}

// The parts of a record batch that are looked at: base offset, length of what follows that, offset of the last record.
const (
	batchLengthAt = 8
	batchHead     = 12
	batchLastAt   = 23
	batchLeast    = 61
)

var errBatch = errors.New("a batch that is none")

// walk adds the whole batches below to that data holds and returns the offset after them. Its last one may have been
// cut off.
func walk(data []byte, next, to int64, sum *maphash.Hash) (int64, error) {
	for len(data) >= batchHead && next < to {
		size := batchHead + int(binary.BigEndian.Uint32(data[batchLengthAt:]))
		if size < batchLeast {
			return next, errBatch
		}
		if size > len(data) {
			break
		}
		base, last := int64(binary.BigEndian.Uint64(data)), int64(binary.BigEndian.Uint32(data[batchLastAt:]))
		if base != next {
			return next, fmt.Errorf("%w: offset %d where %d was due", errBatch, base, next)
		}
		_, _ = sum.Write(data[:size]) // it never fails
		next, data = base+last+1, data[size:]
	}
	return next, nil
}
