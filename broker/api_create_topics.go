package broker

import (
	"context"
	"errors"
	"maps"
	"strings"

	"millrace/broker/config"
	"millrace/raft"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// CreateTopics, versions 2-7 (4: -1 for the broker's default partitions and
// replicas; 5: the answer shows partitions, replicas and settings; 7: the topic
// id). Each topic stands or fails by itself. The answer is sent when the
// topic's logs exist here: a client may produce at once.
func (b *Broker) createTopics(ctx context.Context, rc *requestContext, req *kmsg.CreateTopicsRequest) *kmsg.CreateTopicsResponse {
	ctx, cancel := adminDeadline(ctx, req.TimeoutMillis)
	defer cancel()
	resp := kmsg.NewPtrCreateTopicsResponse()
	img := b.meta.Image()
	seen := map[string]int{}
	for i := range req.Topics {
		seen[req.Topics[i].Topic]++
	}
	var plan topicPlan
	taken := newCollisions(img)
	places := placer{img: img}
	for i := range req.Topics {
		q := &req.Topics[i]
		count := seen[q.Topic]
		if count == 0 {
			continue // answered already
		}
		seen[q.Topic] = 0
		r := kmsg.NewCreateTopicsResponseTopic()
		r.Topic, r.Configs = q.Topic, []kmsg.CreateTopicsResponseTopicConfig{}
		r.NumPartitions, r.ReplicationFactor = -1, -1
		t, err := b.newTopic(&places, q)
		if count > 1 {
			err = faultf(errInvalidRequest, "Duplicate topic name.")
		}
		if err == nil {
			if other := taken.add(q.Topic); other != "" {
				err = faultf(errInvalidTopic, "Topic '%s' collides with existing topic: %s", q.Topic, other)
			}
		}
		if err != nil {
			r.ErrorCode, r.ErrorMessage = answer(err)
			resp.Topics = append(resp.Topics, r)
			continue
		}
		r.NumPartitions, r.ReplicationFactor = int32(len(t.Assignments)), int16(len(t.Assignments[0]))
		r.Configs = b.createdConfigs(t.Configs)
		plan.add(t, len(resp.Topics))
		resp.Topics = append(resp.Topics, r)
	}
	if req.ValidateOnly {
		return resp
	}
	plan.run(ctx, b, func(at int, t *raft.NewTopic, err error) {
		r := &resp.Topics[at]
		if err == nil {
			r.TopicID = t.ID
			return
		}
		r.ErrorCode, r.ErrorMessage = answer(err)
		if r.ErrorCode == errTopicAlreadyExists {
			*r.ErrorMessage = "Topic '" + r.Topic + "' already exists."
		}
		r.NumPartitions, r.ReplicationFactor, r.Configs = -1, -1, []kmsg.CreateTopicsResponseTopicConfig{}
	})
	b.log.Info("topics created", "client", rc.ClientID, "host", rc.ClientHost, "asked", len(req.Topics), "created", plan.created)
	return resp
}

// newTopic checks one topic of a request and works out what to propose.
func (b *Broker) newTopic(places *placer, q *kmsg.CreateTopicsRequestTopic) (*raft.NewTopic, error) {
	img := places.img
	if f := topicNameFault(q.Topic); f != nil {
		return nil, f
	}
	if q.Topic == clusterMetadataTopic {
		return nil, faultf(errTopicAuthorization, "Creation of internal topic %s is prohibited.", q.Topic)
	}
	if img.Topic(q.Topic) != nil {
		return nil, faultf(errTopicAlreadyExists, "Topic '%s' already exists.", q.Topic)
	}
	t := &raft.NewTopic{Name: q.Topic, ID: raft.NewUUID(), Internal: isInternalTopic(q.Topic)}
	var err error
	if len(q.ReplicaAssignment) > 0 {
		t.Assignments, err = manualAssignment(img, q)
	} else {
		t.Assignments, err = b.assignment(places, q)
	}
	if err != nil {
		return nil, err
	}
	t.Configs, err = b.newTopicConfigs(q)
	return t, err
}

// isInternalTopic tells whether a topic holds a coordinator's records.
func isInternalTopic(name string) bool {
	return name == offsetsTopic || name == transactionStateTopic
}

// assignment places the partitions of a topic whose request leaves that to us.
func (b *Broker) assignment(places *placer, q *kmsg.CreateTopicsRequestTopic) ([][]int32, error) {
	partitions, rf := int(q.NumPartitions), int(q.ReplicationFactor)
	if partitions == -1 {
		partitions = int(b.conf.NumPartitions())
	}
	if rf == -1 {
		rf = b.conf.DefaultReplicationFactor(knownBrokers(places.img))
	}
	switch {
	case rf <= 0:
		return nil, faultf(errInvalidReplicationFactor, "Replication factor was set to an invalid non-positive value.")
	case partitions <= 0:
		return nil, faultf(errInvalidPartitions, "Number of partitions was set to an invalid non-positive value.")
	case partitions > proposalPartitionsMax:
		return nil, faultf(errInvalidPartitions, "Number of partitions %d is above the limit of %d for one request.", partitions, proposalPartitionsMax)
	}
	return places.place(q.Topic, 0, partitions, rf)
}

// manualAssignment takes the replicas that the request names.
func manualAssignment(img *raft.Image, q *kmsg.CreateTopicsRequestTopic) ([][]int32, error) {
	switch {
	case q.ReplicationFactor != -1:
		return nil, faultf(errInvalidRequest, "A manual partition assignment was specified, but replication factor was not set to -1.")
	case q.NumPartitions != -1:
		return nil, faultf(errInvalidRequest, "A manual partition assignment was specified, but numPartitions was not set to -1.")
	case len(q.ReplicaAssignment) > proposalPartitionsMax:
		return nil, faultf(errInvalidPartitions, "Number of partitions %d is above the limit of %d for one request.", len(q.ReplicaAssignment), proposalPartitionsMax)
	}
	out := make([][]int32, len(q.ReplicaAssignment))
	for i := range q.ReplicaAssignment {
		a := &q.ReplicaAssignment[i]
		if a.Partition < 0 || int(a.Partition) >= len(out) {
			return nil, faultf(errInvalidReplicaAssignment, "partitions should be a consecutive 0-based integer sequence")
		}
		if out[a.Partition] != nil {
			return nil, faultf(errInvalidReplicaAssignment, "Found multiple manual partition assignments for partition %d", a.Partition)
		}
		if f := replicasFault(img, a.Replicas); f != nil {
			return nil, f
		}
		out[a.Partition] = a.Replicas
	}
	for _, replicas := range out {
		if len(replicas) != len(out[0]) {
			return nil, faultf(errInvalidReplicaAssignment, "The manual partition assignment includes partitions with different numbers of replicas.")
		}
	}
	return out, nil
}

// replicasFault checks one partition's replicas.
func replicasFault(img *raft.Image, replicas []int32) *fault {
	if len(replicas) == 0 {
		return faultf(errInvalidReplicaAssignment, "The manual partition assignment includes an empty replica list.")
	}
	seen := map[int32]bool{}
	for _, id := range replicas {
		if img.Broker(id) == nil {
			return faultf(errInvalidReplicaAssignment, "The manual partition assignment includes broker %d, but no such broker is registered.", id)
		}
		if seen[id] {
			return faultf(errInvalidReplicaAssignment, "The manual partition assignment includes the broker %d more than once.", id)
		}
		seen[id] = true
	}
	return nil
}

// newTopicConfigs checks the settings that a request gives a topic.
func (b *Broker) newTopicConfigs(q *kmsg.CreateTopicsRequestTopic) (map[string]string, error) {
	ops := make([]config.Alteration, 0, len(q.Configs))
	for i := range q.Configs {
		c := &q.Configs[i]
		if c.Value == nil {
			return nil, faultf(errInvalidConfig, "Null value not supported for topic configs: %s", c.Name)
		}
		ops = append(ops, config.Alteration{Name: c.Name, Op: config.OpSet, Value: c.Value})
	}
	change, err := b.conf.AlterTopic(nil, ops)
	if err != nil {
		return nil, err
	}
	configs := change.Values
	if q.Topic == offsetsTopic {
		// A coordinator's topic that is not compacted would forget its groups.
		defaults := b.conf.OffsetsTopicConfigs()
		maps.Copy(defaults, configs)
		configs = defaults
	}
	return configs, nil
}

// createdConfigs shows a new topic's settings, as DescribeConfigs would.
func (b *Broker) createdConfigs(overrides map[string]string) []kmsg.CreateTopicsResponseTopicConfig {
	entries := b.conf.DescribeTopic(overrides, nil)
	out := make([]kmsg.CreateTopicsResponseTopicConfig, len(entries))
	for i, e := range entries {
		c := kmsg.NewCreateTopicsResponseTopicConfig()
		c.Name, c.Value, c.ReadOnly, c.Source = e.Name, e.Value, e.ReadOnly, int8(e.Source)
		out[i] = c
	}
	return out
}

// collisions finds topic names that differ only in '.' and '_': metric names
// made from them would be the same, so Kafka refuses the second one.
type collisions map[string]string

func newCollisions(img *raft.Image) collisions {
	c := collisions{}
	img.EachTopic(func(t *raft.Topic) bool {
		if folded, special := fold(t.Name); special {
			c[folded] = t.Name
		}
		return true
	})
	return c
}

// add takes a name in; it returns the topic that it collides with, or "".
func (c collisions) add(name string) string {
	folded, special := fold(name)
	if !special {
		return ""
	}
	if other, ok := c[folded]; ok && other != name {
		return other
	}
	c[folded] = name
	return ""
}

func fold(name string) (folded string, special bool) {
	return strings.ReplaceAll(name, ".", "_"), strings.ContainsAny(name, "._")
}

// topicPlan gathers checked topics into commands of bounded size.
type topicPlan struct {
	topics  []raft.NewTopic
	at      []int // each topic's place in the response
	created int
}

func (p *topicPlan) add(t *raft.NewTopic, at int) {
	p.topics, p.at = append(p.topics, *t), append(p.at, at)
}

// run proposes the topics and reports the outcome of each.
func (p *topicPlan) run(ctx context.Context, b *Broker, done func(at int, t *raft.NewTopic, err error)) {
	for len(p.topics) > 0 {
		n, partitions, bytes := 0, 0, 0
		for n < len(p.topics) && n < proposalItemsMax {
			t := &p.topics[n]
			partitions += len(t.Assignments) * (1 + len(t.Assignments[0]))
			for k, v := range t.Configs {
				bytes += len(k) + len(v) + 8
			}
			if n > 0 && (partitions > 4*proposalPartitionsMax || bytes > raft.MaxCommandBytes/4) {
				break
			}
			n++
		}
		items, err := b.propose(ctx, raft.CreateTopics{Topics: p.topics[:n]}, n)
		for i := range n {
			e := err
			if e == nil {
				e = items[i].Err()
			}
			if errors.Is(e, raft.TopicExists) && b.meta.Image().TopicByID(p.topics[i].ID) != nil {
				e = nil // the first proposal's answer was lost; ids are random
			}
			if e == nil {
				p.created++
			}
			done(p.at[i], &p.topics[i], e)
		}
		p.topics, p.at = p.topics[n:], p.at[n:]
	}
}
