package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"millrace/tools/chaos/cluster"
	"millrace/tools/chaos/fault"
	"millrace/tools/chaos/history"
	"millrace/tools/chaos/load"
	"millrace/tools/chaos/replicas"
)

// The times that a cluster is given once nothing is wrong any more.
const (
	progressTimeout = 30 * time.Second
	drainTimeout    = 60 * time.Second // for producers to get their last records through
	catchUpTimeout  = 60 * time.Second // for consumers to reach the end
)

// errBroken says that the checker found something; what is in the log.
var errBroken = errors.New("promises were broken")

// errNothingFound says that a control was not caught.
var errNothingFound = errors.New("the cluster was expected to break a promise, and nothing was found")

// run takes a cluster apart and judges it.
func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp(o.dir, "chaos-")
	if err != nil {
		return err
	}
	recorder, err := history.NewRecorder(filepath.Join(dir, "history"))
	if err != nil {
		return err
	}
	o.log.Info("chaos", "seed", o.seed, "dir", dir, "nodes", o.nodes, "network", o.network, "disks", o.disks)
	t := &test{o: o, dir: dir, recorder: recorder}
	finished, failed := t.attempt(ctx)
	err = t.verdict(finished, failed)
	if err == nil && !o.keep {
		return os.RemoveAll(dir)
	}
	o.log.Info("kept for a look", "dir", dir)
	return err
}

// test is one run under way.
type test struct {
	o        options
	dir      string
	recorder *history.Recorder
	cluster  *cluster.Cluster
	target   *load.Target
	prober   *load.Prober

	producers []*load.Producer
	readers   []*load.Reader
	members   []*load.Member
	isStuck   bool
}

// attempt plays the run; finished says that it came to the point where everything was read.
func (t *test) attempt(ctx context.Context) (finished bool, err error) {
	t.cluster, err = cluster.New(cluster.Options{Binary: t.o.binary, Dir: t.dir, Nodes: t.o.nodes, Namespaces: t.o.network, Disks: t.o.disks, Args: t.o.args})
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, t.cluster.Close()) }()
	defer t.alarms()
	if err := t.cluster.Start(ctx); err != nil {
		return false, err
	}
	if err := createTopics(ctx, t.cluster.Seeds(), t.o); err != nil {
		return false, err
	}
	if _, err := replicaSets(ctx, t.cluster.Seeds(), t.o.topicNames()); err != nil {
		return false, fmt.Errorf("new topics: %w", err)
	}
	t.target = &load.Target{Seeds: t.cluster.Seeds(), Topics: t.o.topicNames(), Partitions: int32(t.o.partitions), Recorder: t.recorder}
	t.prober = &load.Prober{Target: t.target}
	return t.play(ctx)
}

// play loads the cluster, breaks it, heals it and reads everything.
func (t *test) play(ctx context.Context) (finished bool, err error) {
	// The end of everything, and before it of producing and of group members leaving.
	working, stopWorking := context.WithCancel(ctx)
	defer stopWorking()
	loading, stopLoading := context.WithCancel(working)
	defer stopLoading()
	producing, consuming, err := t.startLoad(loading, working)
	if err != nil {
		return false, err
	}
	defer consuming.Wait()
	defer producing.Wait()
	defer stopWorking()

	if err := t.breakThings(ctx); err != nil {
		return false, err
	}
	if t.isStuck || t.broken() && !t.o.negative() {
		return false, nil
	}
	if err := t.heal(ctx); err != nil || t.isStuck {
		return false, err
	}
	stopLoading()
	t.drain(ctx, producing)
	ends, err := t.target.Ends(ctx)
	if err != nil {
		return false, fmt.Errorf("newest offsets after healing: %w", err)
	}
	t.catchUp(ctx, ends)
	stopWorking()
	producing.Wait()
	consuming.Wait()
	if ends, err = load.Last(ctx, t.target); err != nil {
		return false, fmt.Errorf("the last reading: %w", err)
	}
	return true, t.compare(ctx, ends)
}

// startLoad starts all clients.
func (t *test) startLoad(loading, working context.Context) (producing, consuming *sync.WaitGroup, err error) {
	producing, consuming = &sync.WaitGroup{}, &sync.WaitGroup{}
	for i := range t.o.producers {
		p, err := load.NewProducer(t.target, i, t.o.rate, t.o.size, t.o.seed)
		if err != nil {
			return nil, nil, err
		}
		t.producers = append(t.producers, p)
	}
	for i := range 2 {
		r, err := load.NewReader(t.target, i, t.o.seed)
		if err != nil {
			return nil, nil, err
		}
		t.readers = append(t.readers, r)
	}
	for _, p := range t.producers {
		producing.Go(func() { p.Run(loading, working) })
	}
	for _, r := range t.readers {
		consuming.Go(func() { r.Run(working) })
	}
	background := func(what string, do func(context.Context) error) {
		consuming.Go(func() {
			if err := do(working); err != nil {
				t.recorder.Brokef("%s: %v", what, err)
			}
		})
	}
	for i := range 3 {
		m := load.NewMember(t.target, "chaos", i, t.o.seed)
		t.members = append(t.members, m)
		background("group member", func(ctx context.Context) error { return m.Run(ctx, loading) })
	}
	background("committer", (&load.Committer{Target: t.target}).Run)
	for _, n := range t.cluster.Nodes {
		background("watcher", (&load.Watcher{Target: t.target, Node: n.ID, Kafka: n.Kafka}).Run)
	}
	return producing, consuming, nil
}

// warmUp is how long the load runs before the first fault.
const warmUp = 2 * time.Second

// breakThings lets faults happen until the time is over or something is found.
func (t *test) breakThings(ctx context.Context) error {
	faults, err := t.chosen()
	if err != nil {
		return err
	}
	plan := fault.NewPlan(faults, t.o.nodes, t.o.seed)
	began := time.Now()
	t.pause(ctx, warmUp)
	if t.o.lie {
		for _, n := range t.cluster.Nodes {
			n.Volume.Lie()
		}
	}
	for number := int64(1); time.Since(began) < t.o.duration && ctx.Err() == nil && !t.broken(); number++ {
		step := plan.Next()
		t.pause(ctx, step.Pause)
		if err := t.cluster.Alive(); err != nil {
			t.stuck("a node ended by itself: %v", err)
			return nil
		}
		t.recorder.Add(history.Event{Kind: history.Begin, Op: number, Text: step.String()})
		t.o.log.Info("fault begins", "n", number, "what", step.String())
		started := time.Now()
		err := step.Do(ctx, t.cluster)
		t.recorder.Add(history.Event{Kind: history.End, Op: number, Text: step.String()})
		if err != nil {
			t.stuck("fault %d: %v", number, err)
			return nil
		}
		counts := t.recorder.Counts()
		t.o.log.Info("fault is over", "n", number, "took", time.Since(started).Round(time.Millisecond), "acknowledged", counts.Acked, "shown", counts.Shown)
	}
	return nil
}

// chosen are the faults of this run.
func (t *test) chosen() ([]fault.Fault, error) {
	faults, skipped := fault.Catalog(t.cluster)
	for _, s := range skipped {
		t.o.log.Warn("SKIPPED: " + s)
	}
	if t.o.faults == nil {
		return faults, nil
	}
	var some []fault.Fault
	for _, name := range t.o.faults {
		f, ok := fault.Find(faults, name)
		if !ok {
			return nil, fmt.Errorf("no fault %q on this kind of cluster", name)
		}
		some = append(some, f)
	}
	return some, nil
}

func (t *test) pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-t.recorder.Broken():
	case <-time.After(d):
	}
}

// stuck records that the cluster cannot be used any more: there is nothing to read or compare.
func (t *test) stuck(format string, args ...any) {
	t.recorder.Brokef(format, args...)
	if !t.isStuck {
		t.isStuck = true
		t.picture()
	}
}

func (t *test) broken() bool {
	select {
	case <-t.recorder.Broken():
		return true
	default:
		return false
	}
}

// heal waits until the cluster is whole again, as it must be now that nothing is wrong.
func (t *test) heal(ctx context.Context) error {
	if err := t.cluster.Revive(ctx); err != nil {
		return err
	}
	began := time.Now()
	stuck, err := t.prober.Probe(ctx, progressTimeout)
	if err != nil {
		return err
	}
	for _, s := range stuck {
		t.stuck("no progress within %v of the end of the last fault: %s", progressTimeout, s)
	}
	progress := time.Since(began)
	if _, err := replicaSets(ctx, t.cluster.Seeds(), t.o.topicNames()); err != nil {
		t.stuck("replicas are not in sync: %v", err)
	}
	if t.isStuck {
		return nil
	}
	t.o.log.Info("healed", "progress", progress.Round(time.Millisecond), "in_sync", time.Since(began).Round(time.Millisecond))
	return nil
}

// drain waits until every record is answered.
func (t *test) drain(ctx context.Context, producing *sync.WaitGroup) {
	done := make(chan struct{})
	go func() { producing.Wait(); close(done) }()
	select {
	case <-ctx.Done():
	case <-done:
	case <-time.After(drainTimeout):
		for i, p := range t.producers {
			if n := p.Waiting(); n > 0 {
				t.recorder.Brokef("producer %d still waits for the answers to %d records after %v", i, n, drainTimeout)
			}
		}
	}
}

// catchUp waits until every consumer has seen everything.
func (t *test) catchUp(ctx context.Context, ends map[history.Where]int64) {
	deadline := time.Now().Add(catchUpTimeout)
	for ctx.Err() == nil {
		behind := t.behind(ends)
		if len(behind) == 0 {
			return
		}
		if time.Now().After(deadline) {
			for _, b := range behind {
				t.recorder.Brokef("after %v %s", catchUpTimeout, b)
			}
			return
		}
		t.sleep(ctx, 50*time.Millisecond)
	}
}

func (t *test) sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (t *test) behind(ends map[history.Where]int64) (behind []string) {
	t.target.Everywhere(func(w history.Where) {
		group := int64(0)
		for _, m := range t.members {
			group = max(group, m.Position(w))
		}
		if group < ends[w] {
			behind = append(behind, fmt.Sprintf("the group has read %v up to %d, the end is %d", w, group, ends[w]))
		}
		for i, r := range t.readers {
			if at := r.Position(w); at < ends[w] {
				behind = append(behind, fmt.Sprintf("reader %d has read %v up to %d, the end is %d", i, w, at, ends[w]))
			}
		}
	})
	return behind
}

// compare stops the nodes in an orderly way and compares their directories.
func (t *test) compare(ctx context.Context, ends map[history.Where]int64) error {
	sets, err := replicaSets(ctx, t.cluster.Seeds(), t.o.topicNames())
	if err != nil {
		t.recorder.Brokef("replicas are not in sync: %v", err)
		return nil
	}
	if err := t.cluster.Terminate(); err != nil {
		t.recorder.Brokef("%v", err)
		return nil
	}
	directories := map[int]*replicas.Directory{}
	for _, n := range t.cluster.Nodes {
		d, err := replicas.Read(n.Volume.Data(), t.o.topicNames())
		if err != nil {
			return fmt.Errorf("%v: %w", n, err)
		}
		directories[n.ID] = d
	}
	var wanted []replicas.Want
	t.target.Everywhere(func(w history.Where) {
		wanted = append(wanted, replicas.Want{Topic: w.Topic, Partition: w.Partition, Nodes: sets[w.Topic][w.Partition], End: ends[w]})
	})
	for _, difference := range replicas.Compare(directories, wanted) {
		t.recorder.Add(history.Event{Kind: history.Differ, Text: difference})
	}
	return nil
}

// verdict judges a run.
func (t *test) verdict(finished bool, failed error) error {
	end := t.recorder.Abandon
	if finished {
		end = t.recorder.Finish
	}
	violations, counts, err := end()
	err = errors.Join(failed, err)
	for _, v := range violations {
		t.o.log.Error("VIOLATION", "what", v.String())
	}
	t.o.log.Info("judged", "finished", finished, "counts", fmt.Sprintf("%+v", counts))
	if err == nil && finished && (counts.Acked == 0 || counts.Shown == 0) {
		err = errors.New("nothing was acknowledged or nothing shown in the whole run")
	}
	if t.o.negative() {
		if t.expected(violations) {
			return nil
		}
		return errors.Join(errNothingFound, err)
	}
	if len(violations) > 0 {
		return errors.Join(fmt.Errorf("%w: %v", errBroken, violations[0]), err)
	}
	return err
}

// expected reports whether a control was caught by a rule that it may be caught by. A run that got stuck proves nothing.
func (t *test) expected(violations []history.Violation) bool {
	return slices.ContainsFunc(violations, func(v history.Violation) bool {
		return t.o.anyRule && v.Rule != history.Harness || slices.Contains(t.o.expect, v.Rule)
	})
}
