package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/tools/chaos/cluster"
	"millrace/tools/chaos/load"
)

// outage is one kind of fault whose price is measured.
type outage struct {
	name string
	// victim chooses the node to hurt, given who leads the partition and who is controller; ok is false when this
	// partition does not fit.
	victim func(leader, controller int32, replicas []int32) (node int32, ok bool)
	hurt   func(*cluster.Node) error
}

func leaderOnly(leader, controller int32, _ []int32) (int32, bool) {
	return leader, leader != controller
}

func leaderAndController(leader, controller int32, _ []int32) (int32, bool) {
	return leader, leader == controller
}

func followerOnly(leader, controller int32, replicas []int32) (int32, bool) {
	for _, r := range replicas {
		if r != leader && r != controller {
			return r, true
		}
	}
	return 0, false
}

func killNode(n *cluster.Node) error { return n.Kill() }

func stopNode(n *cluster.Node) error {
	_, err := n.Terminate()
	return err
}

var outages = []outage{
	{"kill the leader", leaderOnly, killNode},
	{"kill a follower", followerOnly, killNode},
	{"kill the leader, which is controller", leaderAndController, killNode},
	{"pause the leader", leaderOnly, (*cluster.Node).Pause},
	{"stop the leader in an orderly way", leaderOnly, stopNode},
}

// measured is what is printed.
type measured struct {
	Nodes      int           `json:"nodes"`
	RecordsPS  int           `json:"records_per_second"`
	Outages    []outageTimes `json:"outages"`
	Seed       uint64        `json:"seed"`
	RetryMS    float64       `json:"client_retry_ms"`    // how soon the client tries again
	MetadataMS float64       `json:"client_metadata_ms"` // how often it may ask who leads, when something fails
	RefreshMS  float64       `json:"client_refresh_ms"`  // how often it asks in any case
	InFlight   int           `json:"client_requests_in_flight"`
	TimeoutMS  float64       `json:"client_timeout_ms"` // how long it waits for a node that says nothing: the price of a pause
}

// outageTimes are the pauses of one kind of fault, in milliseconds.
type outageTimes struct {
	Name     string    `json:"name"`
	Median   float64   `json:"median_ms"`
	Worst    float64   `json:"worst_ms"`
	Gaps     []float64 `json:"gaps_ms"`  // the longest time between two acknowledgements around each fault
	Failures int       `json:"failures"` // rounds without an acknowledgement in outageMax

	// How long it took until another node named another leader; 0 where the leader stays.
	ElectedMedian float64   `json:"elected_median_ms"`
	ElectedWorst  float64   `json:"elected_worst_ms"`
	Elected       []float64 `json:"elected_ms"`
}

// The load of a measurement: one record at a time, due at fixed moments whatever the cluster does.
const (
	openLoopEvery = 2 * time.Millisecond
	outageMax     = 30 * time.Second
	outageAfter   = time.Second // acknowledgements must flow for so long before it is over
	clientRetry   = 10 * time.Millisecond
	clientAsks    = 20 * time.Millisecond
	clientTimeout = time.Second
	// A client with several requests under way to a node that says nothing lets them time out one after the other before it
	// turns to another: the pause would be five time-outs, whatever the cluster does. So there is one, which an idempotent
	// producer of this client would not hold to, and it asks often.
	clientInFlight = 1
	clientRefresh  = 250 * time.Millisecond
)

// measure hurts a cluster again and again and prints how long acknowledgements paused.
func measure(ctx context.Context, o options, rounds int, out io.Writer) (err error) {
	dir, err := os.MkdirTemp(o.dir, "failover-")
	if err != nil {
		return err
	}
	o.log.Info("failover", "seed", o.seed, "dir", dir, "rounds", rounds)
	c, err := cluster.New(cluster.Options{Binary: o.binary, Dir: dir, Nodes: 3, Namespaces: o.network, Disks: o.disks, Args: o.args})
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, c.Close())
		if err == nil && !o.keep {
			err = os.RemoveAll(dir)
		}
	}()
	if err := c.Start(ctx); err != nil {
		return err
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(c.Seeds()...), kgo.DisableClientMetrics(), kgo.MetadataMinAge(10*time.Millisecond))
	if err != nil {
		return err
	}
	defer client.Close()
	m := &meter{o: o, cluster: c, client: client, admin: kadm.NewClient(client), random: rand.New(rand.NewPCG(o.seed, 1))}
	result := measured{Nodes: 3, RecordsPS: int(time.Second / openLoopEvery), Seed: o.seed, RetryMS: milliseconds(clientRetry), MetadataMS: milliseconds(clientAsks), RefreshMS: milliseconds(clientRefresh), InFlight: clientInFlight, TimeoutMS: milliseconds(clientTimeout)}
	for _, kind := range outages {
		if o.faults != nil && !slices.Contains(o.faults, kind.name) {
			continue
		}
		times := outageTimes{Name: kind.name, Gaps: []float64{}, Elected: []float64{}}
		for range rounds {
			gap, elected, err := m.round(ctx, kind)
			switch {
			case errors.Is(err, errOutage):
				times.Failures++
				o.log.Error(kind.name, "err", err)
			case err != nil:
				return fmt.Errorf("%s: %w", kind.name, err)
			default:
				times.Gaps = append(times.Gaps, milliseconds(gap))
				if elected > 0 {
					times.Elected = append(times.Elected, milliseconds(elected))
				}
				o.log.Info(kind.name, "gap", gap.Round(time.Millisecond), "elected", elected.Round(time.Millisecond))
			}
		}
		times.Median, times.Worst = medianAndWorst(times.Gaps)
		times.ElectedMedian, times.ElectedWorst = medianAndWorst(times.Elected)
		result.Outages = append(result.Outages, times)
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(result)
}

func medianAndWorst(values []float64) (median, worst float64) {
	if len(values) == 0 {
		return 0, 0
	}
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2], sorted[len(sorted)-1]
}

func milliseconds(d time.Duration) float64 {
	return float64(d.Round(10*time.Microsecond)) / float64(time.Millisecond)
}

// meter measures one fault after the other.
type meter struct {
	o       options
	cluster *cluster.Cluster
	client  *kgo.Client
	admin   *kadm.Client
	random  *rand.Rand
	topics  int
}

var errOutage = fmt.Errorf("no acknowledgement for %v", outageMax)

// round makes a new topic, so that leaders are spread, hurts one of its partitions and heals the cluster.
func (m *meter) round(ctx context.Context, kind outage) (gap, elected time.Duration, err error) {
	topic := fmt.Sprintf("failover-%d", m.topics)
	m.topics++
	at, victim, err := m.place(ctx, topic, kind)
	if err != nil {
		return 0, 0, err
	}
	gap, elected, err = m.load(ctx, at, m.cluster.Nodes[victim-1], kind)
	if err != nil && !errors.Is(err, errOutage) {
		return 0, 0, err
	}
	if err := m.cluster.Revive(ctx); err != nil {
		return 0, 0, err
	}
	if err := m.settled(ctx, at.topic, func(kadm.PartitionDetail) {}); err != nil {
		return 0, 0, err
	}
	_, derr := m.admin.DeleteTopics(ctx, at.topic)
	return gap, elected, errors.Join(err, derr)
}

// placeTries bounds how many topics are made until a partition fits.
const placeTries = 20

// led is a partition and who leads it.
type led struct {
	topic     string
	partition int32
	leader    int32
}

// place makes a topic and finds a partition of it whose nodes play the parts that kind asks for.
func (m *meter) place(ctx context.Context, topic string, kind outage) (at led, victim int32, err error) {
	two := "2"
	for range placeTries {
		if _, err := m.admin.CreateTopic(ctx, 6, 3, map[string]*string{"min.insync.replicas": &two}, topic); err != nil {
			return at, 0, fmt.Errorf("create %s: %w", topic, err)
		}
		controller, err := m.controller(ctx)
		if err != nil {
			return at, 0, err
		}
		found := false
		err = m.settled(ctx, topic, func(p kadm.PartitionDetail) {
			if found {
				return
			}
			if victim, found = kind.victim(p.Leader, controller, p.Replicas); found {
				at = led{topic, p.Partition, p.Leader}
			}
		})
		if err != nil || found {
			return at, victim, err
		}
		if _, err := m.admin.DeleteTopics(ctx, topic); err != nil {
			return at, 0, err
		}
		topic += "-"
	}
	return at, 0, fmt.Errorf("no partition fits %q", kind.name)
}

// controller is the node that the brokers name as controller.
func (m *meter) controller(ctx context.Context) (int32, error) {
	meta, err := m.admin.BrokerMetadata(ctx)
	return meta.Controller, err
}

// settled waits until all replicas of a topic are in sync, and then visits its partitions.
func (m *meter) settled(ctx context.Context, topic string, visit func(kadm.PartitionDetail)) error {
	ctx, cancel := context.WithTimeout(ctx, inSyncTimeout)
	defer cancel()
	for {
		behind := "no answer"
		if listed, err := m.admin.ListTopics(ctx, topic); err == nil && len(listed[topic].Partitions) > 0 {
			behind = ""
			for _, p := range listed[topic].Partitions.Sorted() {
				if p.Err != nil || p.Leader < 0 || len(p.ISR) < len(p.Replicas) {
					behind = fmt.Sprintf("partition %d: leader %d, replicas %v, in sync %v: %v", p.Partition, p.Leader, p.Replicas, p.ISR, p.Err)
				}
			}
			if behind == "" {
				for _, p := range listed[topic].Partitions.Sorted() {
					visit(p)
				}
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not in sync after %v: %s", topic, inSyncTimeout, behind)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// acknowledgements are the moments at which records were acknowledged, and when they had been due.
type acknowledgements struct {
	mu     sync.Mutex
	at     []time.Time
	newest time.Time // due
}

func (a *acknowledgements) add(due time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at = append(a.at, time.Now())
	if due.After(a.newest) {
		a.newest = due
	}
}

// load writes to a partition, hurts a node and returns the longest pause around that, and when another leader was named.
func (m *meter) load(ctx context.Context, at led, victim *cluster.Node, kind outage) (gap, elected time.Duration, err error) {
	client, err := kgo.NewClient(kgo.SeedBrokers(m.cluster.Seeds()...), kgo.DisableClientMetrics(), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0),
		kgo.MetadataMinAge(clientAsks), kgo.MetadataMaxAge(clientRefresh), kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(clientInFlight), kgo.RetryBackoffFn(func(int) time.Duration { return clientRetry }), kgo.RecordRetries(1<<30), kgo.MaxBufferedRecords(1<<16),
		kgo.ProduceRequestTimeout(clientTimeout/2), kgo.RequestTimeoutOverhead(clientTimeout/2), kgo.DialTimeout(clientTimeout))
	if err != nil {
		return 0, 0, err
	}
	defer client.Close()
	acked := &acknowledgements{}
	producing, stop := context.WithCancel(ctx)
	var wait sync.WaitGroup
	defer wait.Wait()
	defer stop()
	wait.Go(func() {
		tick := time.NewTicker(openLoopEvery)
		defer tick.Stop()
		for producing.Err() == nil {
			select {
			case <-producing.Done():
			case due := <-tick.C:
				client.Produce(producing, &kgo.Record{Topic: at.topic, Partition: at.partition, Value: []byte("x")}, func(_ *kgo.Record, err error) {
					if err == nil {
						acked.add(due)
					}
				})
			}
		}
	})
	if err := m.flowing(ctx, acked, time.Now()); err != nil {
		return 0, 0, err
	}
	time.Sleep(time.Duration(m.random.Int64N(int64(300 * time.Millisecond)))) // any phase of the sessions
	hurt := time.Now()
	named := make(chan time.Duration, 1)
	if int(at.leader) == victim.ID {
		wait.Go(func() { named <- m.named(producing, at, hurt) })
	} else {
		named <- 0
	}
	if err := kind.hurt(victim); err != nil {
		return 0, 0, err
	}
	if err := m.flowing(ctx, acked, hurt); err != nil {
		return 0, 0, err
	}
	return acked.longest(hurt), <-named, nil
}

// nameEvery is how often another node is asked who leads.
const nameEvery = 2 * time.Millisecond

// named waits until a node other than the leader names another leader, and says how long that took since.
func (m *meter) named(ctx context.Context, at led, since time.Time) time.Duration {
	other := m.cluster.Nodes[int(at.leader)%len(m.cluster.Nodes)] // numbers begin at 1: the next one
	client, err := kgo.NewClient(kgo.SeedBrokers(other.Kafka), kgo.DisableClientMetrics())
	if err != nil {
		return 0
	}
	defer client.Close()
	w := &load.Watcher{Target: &load.Target{Topics: []string{at.topic}}}
	for ctx.Err() == nil {
		if leader, ok := w.Leader(ctx, client, at.topic, at.partition); ok && leader >= 0 && leader != at.leader {
			return time.Since(since)
		}
		select {
		case <-ctx.Done():
		case <-time.After(nameEvery):
		}
	}
	return 0
}

// flowing waits until a record that was due after since is acknowledged, and then one that was due outageAfter later.
func (m *meter) flowing(ctx context.Context, acked *acknowledgements, since time.Time) error {
	for first := (time.Time{}); ; {
		acked.mu.Lock()
		if first.IsZero() && acked.newest.After(since) {
			first = time.Now()
		}
		over := !first.IsZero() && acked.newest.After(first.Add(outageAfter))
		acked.mu.Unlock()
		switch {
		case over:
			return nil
		case time.Since(since) > outageMax:
			return errOutage
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// longest is the longest time between two acknowledgements of which the second came after since.
func (a *acknowledgements) longest(since time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	var longest time.Duration
	for i := 1; i < len(a.at); i++ {
		if a.at[i].After(since) {
			longest = max(longest, a.at[i].Sub(a.at[i-1]))
		}
	}
	return longest
}
