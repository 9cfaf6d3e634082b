package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/tools/millrace/bench"
)

// liveRate is the open loop beside a follower that catches up: records a second, the same for all systems.
const liveRate = 5000

// The loads of runFollower.
var (
	liveTopic    = topicShape{"live", 1}
	backlogTopic = topicShape{"backlog", 4}
	liveLoad     = append(raw(16, 8), "-t", liveTopic.name, "-s", strconv.Itoa(recordSmall), "--rate", strconv.Itoa(liveRate))
	backlogLoad  = append(raw(4, 5), "-t", backlogTopic.name, "-p", strconv.Itoa(backlogTopic.partitions), "-s", strconv.Itoa(recordLarge), "--batch", strconv.Itoa(64<<10))
)

// runFollower stops a broker that follows, writes a backlog and starts it again, beside an open loop.
func runFollower(ctx context.Context, s *suite, srv *server, _ *workload, r *result) error {
	obs, err := srv.observer()
	if err != nil {
		return err
	}
	defer obs.close()
	if _, err := obs.makeTopic(ctx, backlogTopic); err != nil {
		return err
	}
	live, err := obs.makeTopic(ctx, liveTopic)
	if err != nil {
		return err
	}
	before, err := s.benchReport(ctx, srv, append([]string{"-d", seconds(s.opts.duration), "--warmup", seconds(s.opts.warmup)}, liveLoad...)...)
	if err != nil {
		return fmt.Errorf("before: %w", err)
	}
	if before.Latency != nil {
		r.set("p99_alone", float64(before.Latency.P99))
	}
	if unsustained(before) {
		r.mark("the open loop was not sustained before")
	}
	follower, err := obs.victim(ctx, live.partitions[0].leader)
	if err != nil {
		return err
	}
	follower.proc.stop(30 * time.Second)
	without := func(s *topicState) string {
		for i, p := range s.partitions {
			if p.leader < 0 || slices.Contains(p.isr, follower.id) {
				return fmt.Sprintf("partition %d: %v", i, p)
			}
		}
		return ""
	}
	for _, t := range []topicShape{backlogTopic, liveTopic} {
		if _, err := obs.await(ctx, t.name, inSyncTimeout, without); err != nil {
			return fmt.Errorf("broker %d was stopped: %w", follower.id, err)
		}
	}
	missed, err := s.fillBacklog(ctx, srv)
	if err != nil {
		return err
	}
	r.set("filled_mb", missed/1e6)

	load, err := launchLoad(ctx, srv, s.bin("millrace"), append([]string{"bench", "-b", srv.addr, "-d", seconds(catchUpMax), "--warmup", "1"}, liveLoad...)...)
	if err != nil {
		return err
	}
	defer load.proc.stop(time.Second) // it has ended where all went well
	select {
	case <-load.opened:
	case <-load.proc.done:
		return fmt.Errorf("the open loop has ended: %s", load.proc.tail.text())
	case <-ctx.Done():
		return ctx.Err()
	}
	began := time.Now()
	if err := follower.start(ctx); err != nil {
		return err
	}
	if err := follower.ready(ctx); err != nil {
		return err
	}
	ready := time.Since(began)
	for _, t := range []topicShape{backlogTopic, liveTopic} {
		if _, err := obs.await(ctx, t.name, catchUpMax, inSync(clusterNodes)); err != nil {
			return err
		}
	}
	took := time.Since(began)
	load.proc.interrupt()
	rep, err := load.report(ctx)
	if rep == nil {
		return fmt.Errorf("the open loop left no report: %w", err)
	}
	r.Brokers = len(srv.nodes)
	r.latency("", rep.Latency)
	if rep.Latency != nil && r.get("p99_alone") > 0 {
		r.set("p99_times", float64(rep.Latency.P99)/r.get("p99_alone"))
	}
	if unsustained(rep) {
		r.mark("the open loop was not sustained meanwhile")
	}
	if rep.Failed > 0 {
		r.mark(fmt.Sprintf("%d failed", rep.Failed))
	}
	r.set("ready_s", ready.Seconds())
	r.set("sync_s", took.Seconds())
	r.set("catchup_mb", missed/1e6/max(took-ready, time.Millisecond).Seconds())
	for _, t := range []topicShape{backlogTopic, liveTopic} {
		if err := obs.sameReplicas(ctx, t.name); err != nil {
			r.mark(markVoid + ": " + t.name + ": " + err.Error())
		}
	}
	return nil
}

// catchUpMax bounds how long a follower may take.
const catchUpMax = 5 * time.Minute

// fillStep is how long one piece of the backlog is written at most.
const fillStep = 2 * time.Second

// fillBacklog writes the backlog and returns how many bytes of records were acknowledged.
func (s *suite) fillBacklog(ctx context.Context, srv *server) (written float64, err error) {
	for step := fillStep / 4; written < float64(s.opts.backlog); {
		rep, err := s.benchReport(ctx, srv, append([]string{"-d", seconds(step), "--warmup", "0"}, backlogLoad...)...)
		if err != nil {
			return written, fmt.Errorf("backlog: %w", err)
		}
		written += float64(rep.Acked * recordLarge)
		left := (float64(s.opts.backlog) - written) / 1e6 / max(rep.MBPerSec, 1)
		step = min(fillStep, max(100*time.Millisecond, time.Duration(left*float64(time.Second))))
	}
	return written, nil
}

// benchReport runs the load generator to its end.
func (s *suite) benchReport(ctx context.Context, srv *server, args ...string) (*bench.Report, error) {
	load, err := launchLoad(ctx, srv, s.bin("millrace"), append([]string{"bench", "-b", srv.addr}, args...)...)
	if err != nil {
		return nil, err
	}
	return load.report(ctx)
}

// victim is a node other than those, if possible none that decides.
func (o *observer) victim(ctx context.Context, without ...int32) (*node, error) {
	controller, err := o.controller(ctx)
	if err != nil {
		return nil, err
	}
	var chosen *node
	for _, n := range o.srv.nodes {
		if !slices.Contains(without, n.id) && (chosen == nil || chosen.id == controller) {
			chosen = n
		}
	}
	return chosen, nil
}

// runPartitions makes many partitions and kills a broker.
func runPartitions(ctx context.Context, s *suite, srv *server, _ *workload, r *result) error {
	obs, err := srv.observer()
	if err != nil {
		return err
	}
	defer obs.close()
	if _, err := obs.makeTopic(ctx, topicShape{"first", 1}); err != nil { // all brokers are there
		return err
	}
	began := time.Now()
	many, err := obs.makeTopic(ctx, topicShape{"many", s.opts.partitions})
	if err != nil {
		return err
	}
	r.Brokers = len(srv.nodes)
	r.set("partitions", float64(s.opts.partitions))
	r.set("create_s", time.Since(began).Seconds())
	p, err := newProbing(srv, "many")
	if err != nil {
		return err
	}
	defer p.close()
	var all []int32
	for i := range many.partitions {
		all = append(all, i)
	}
	began = time.Now()
	times, err := p.each(ctx, all)
	if err != nil {
		return err
	}
	r.set("first_s", times[len(times)-1].Sub(began).Seconds())
	sample := srv.sample()
	r.set("rss_most", sample.rss())

	victim, err := obs.victim(ctx)
	if err != nil {
		return err
	}
	var led []int32
	now, err := obs.state(ctx, "many")
	if err != nil {
		return err
	}
	for i, part := range now.partitions {
		if part.leader == victim.id {
			led = append(led, i)
		}
	}
	if len(led) == 0 {
		return fmt.Errorf("broker %d leads nothing", victim.id)
	}
	r.set("led", float64(len(led)))
	began = time.Now()
	victim.proc.kill()
	if times, err = p.each(ctx, led); err != nil {
		return err
	}
	r.set("failover_half_s", times[len(times)/2].Sub(began).Seconds())
	r.set("failover_s", times[len(times)-1].Sub(began).Seconds())

	began = time.Now()
	if err := victim.start(ctx); err != nil {
		return err
	}
	if _, err := obs.await(ctx, "many", catchUpMax, inSync(clusterNodes)); err != nil {
		return err
	}
	r.set("rejoin_s", time.Since(began).Seconds())
	if err := obs.sameReplicas(ctx, "many"); err != nil {
		r.mark(markVoid + ": " + err.Error())
	}
	return nil
}

// probing writes single records to named partitions of a topic. It tries again as fast as makes sense, so that what is
// measured is the cluster.
type probing struct {
	topic  string
	client *kgo.Client
}

// How soon a client tries again, and how often it may ask who leads.
const (
	retryAfter = 10 * time.Millisecond
	askAfter   = 20 * time.Millisecond
)

func newProbing(srv *server, topic string) (*probing, error) {
	client, err := kgo.NewClient(append(srv.seeds(), kgo.DisableClientMetrics(), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0),
		kgo.MetadataMinAge(askAfter), kgo.RetryBackoffFn(func(int) time.Duration { return retryAfter }), kgo.RecordRetries(1<<30), kgo.MaxBufferedRecords(1<<16),
		kgo.ProduceRequestTimeout(2*time.Second), kgo.RequestTimeoutOverhead(time.Second), kgo.DialTimeout(time.Second))...)
	if err != nil {
		return nil, err
	}
	return &probing{topic, client}, nil
}

func (p *probing) close() { p.client.Close() }

// send writes one record; then is called with the time of its acknowledgement.
func (p *probing) send(ctx context.Context, partition int32, then func(at time.Time, err error)) {
	p.client.Produce(ctx, &kgo.Record{Topic: p.topic, Partition: partition, Value: []byte("a record that shows that the partition takes one")}, func(_ *kgo.Record, err error) {
		then(time.Now(), err)
	})
}

// probeMax bounds how long partitions may take no record.
const probeMax = 3 * time.Minute

// each writes one record to each of the partitions and returns when they were acknowledged, in order.
func (p *probing) each(ctx context.Context, partitions []int32) ([]time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, probeMax)
	defer cancel()
	var mu sync.Mutex
	var times []time.Time
	var failed error
	var all sync.WaitGroup
	for _, i := range partitions {
		all.Add(1)
		p.send(ctx, i, func(at time.Time, err error) {
			defer all.Done()
			mu.Lock()
			defer mu.Unlock()
			times = append(times, at)
			if err != nil && failed == nil {
				failed = fmt.Errorf("partition %d: %w", i, err)
			}
		})
	}
	all.Wait()
	slices.SortFunc(times, time.Time.Compare)
	return times, failed
}
