package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"millrace/tools/process"
)

// options describe a run.
type options struct {
	binary      string
	dir         string
	duration    time.Duration
	rounds      int
	seed        uint64
	producers   int
	partitions  int
	messageSize int
	buffered    int
	rate        float64
	keep        bool
	power       bool // cut the power of the disk instead of killing the process
	topics      []topic
	brokerArgs  []string
	log         *slog.Logger
}

func defaults() options {
	return options{duration: time.Minute, producers: 4, partitions: 4, messageSize: 1024, buffered: 2000, topics: topics}
}

// topic is one that the producers write to.
type topic struct {
	name     string
	configs  map[string]string
	volatile bool // acknowledged before the flush: survives the process, not the power
}

var topics = []topic{
	{"flushed", nil, false},
	{"rolling", map[string]string{"segment.bytes": "1048576"}, false}, // many segments
	{"unflushed", map[string]string{"flush.messages": "100000"}, true},
}

// A round's load lasts between these.
const (
	loadMin = 100 * time.Millisecond
	loadMax = 3 * time.Second
)

// terminateEvery says how often a round ends with SIGTERM instead of SIGKILL.
const terminateEvery = 4

// run kills and checks until the time is over, and returns the first broken promises.
func run(ctx context.Context, o options) (err error) {
	dir, err := os.MkdirTemp(o.dir, "crashtest-")
	if err != nil {
		return err
	}
	defer func() {
		if err == nil && !o.keep {
			err = os.RemoveAll(dir)
		} else {
			o.log.Info("kept for a look", "dir", dir)
		}
	}()
	if o.power {
		o.topics = slices.DeleteFunc(slices.Clone(o.topics), func(t topic) bool { return t.volatile })
	}
	o.log.Info("crashtest", "seed", o.seed, "dir", dir, "producers", o.producers, "partitions", len(o.topics)*o.partitions)
	ending, err := newEnding(o, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ending.release()) }()
	p, kafka, err := newBroker(o, dir, ending.data())
	if err != nil {
		return err
	}
	if err := p.Start(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Kill()) }()
	if err := createTopics(ctx, kafka, o); err != nil {
		return err
	}
	t := &test{o: o, process: p, kafka: kafka, ending: ending, ledger: newLedger(), random: rand.New(rand.NewPCG(o.seed, 1<<40))}
	return t.run(ctx)
}

// newBroker is a standalone broker that does not run yet, and the address of its clients.
func newBroker(o options, dir, data string) (*process.Process, string, error) {
	kafka, err := process.FreeAddress("127.0.0.1")
	if err != nil {
		return nil, "", err
	}
	admin, err := process.FreeAddress("127.0.0.1")
	if err != nil {
		return nil, "", err
	}
	_, port, err := net.SplitHostPort(kafka)
	if err != nil {
		return nil, "", err
	}
	command := append([]string{o.binary, "standalone", "--data-dir", data, "--kafka-port", port, "--admin-addr", admin}, o.brokerArgs...)
	return &process.Process{Command: command, LogFile: filepath.Join(dir, "broker.log"), Admin: admin}, kafka, nil
}

func createTopics(ctx context.Context, seed string, o options) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(seed), kgo.DisableClientMetrics())
	if err != nil {
		return err
	}
	defer client.Close()
	for _, t := range o.topics {
		configs := map[string]*string{}
		for k, v := range t.configs {
			configs[k] = &v
		}
		_, err := kadm.NewClient(client).CreateTopic(ctx, int32(o.partitions), 1, configs, t.name)
		if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return fmt.Errorf("create %s: %w", t.name, err)
		}
	}
	return nil
}

// test is one run under way.
type test struct {
	o       options
	process *process.Process
	kafka   string // host:port
	ending  ending
	ledger  *ledger
	random  *rand.Rand
}

// drainTimeout is how long the producers may take to get their last records through.
const drainTimeout = 2 * time.Minute

func (t *test) run(ctx context.Context) error {
	loading, stopLoading := context.WithCancel(ctx)
	draining, stopDraining := context.WithCancel(ctx)
	defer stopDraining()
	defer stopLoading()
	var clients sync.WaitGroup
	var producers []*producer
	for i := range t.o.producers {
		p, err := newProducer(t.o, t.kafka, i, t.ledger)
		if err != nil {
			return err
		}
		producers = append(producers, p)
		clients.Go(func() { p.run(loading, draining) })
	}
	tailing, stopTail := context.WithCancel(ctx)
	defer stopTail()
	var tails sync.WaitGroup
	tails.Go(func() {
		if err := tail(tailing, t.kafka, t.ledger, t.o.topics); err != nil {
			t.ledger.broke("tail reader: %v", err)
		}
	})
	side, err := kgo.NewClient(kgo.SeedBrokers(t.kafka), kgo.DisableClientMetrics(), kgo.RetryTimeout(5*time.Second),
		kgo.MetadataMinAge(10*time.Millisecond)) // which is how long kadm believes what it knows
	if err != nil {
		return err
	}
	defer side.Close()
	books := newBookkeeper(side, t.ledger)

	began := time.Now()
	for round := 1; (t.o.rounds == 0 || round <= t.o.rounds) && time.Since(began) < t.o.duration && ctx.Err() == nil; round++ {
		if err := t.round(ctx, round, books); err != nil {
			return t.verdict(err)
		}
	}
	stopLoading()
	drained := make(chan struct{})
	go func() { clients.Wait(); close(drained) }()
	select {
	case <-drained:
	case <-time.After(drainTimeout):
		stopDraining()
		<-drained
		t.ledger.broke("the producers could not get their last records through within %v", drainTimeout)
	}
	for _, p := range producers {
		if n := p.failed.Load(); n > 0 {
			t.ledger.broke("producer %d: %d record(s) failed, the last with: %v", p.number, n, *p.lastError.Load())
		}
	}
	stopTail()
	tails.Wait()
	records, err := audit(ctx, t.kafka, t.ledger, t.o, true)
	acked, seen := t.ledger.counts()
	t.o.log.Info("read back from the start", "records", records, "acknowledged", acked, "shown", seen, "took", time.Since(began).Round(time.Second))
	if err == nil && acked == 0 {
		err = errors.New("nothing was acknowledged in the whole run")
	}
	if err == nil {
		_, err = t.process.Terminate()
	}
	return t.verdict(err)
}

// round loads, ends the broker, starts it again and checks.
func (t *test) round(ctx context.Context, round int, books *bookkeeper) error {
	working, stop := context.WithCancel(ctx)
	var side sync.WaitGroup
	side.Go(func() { books.work(working, round) })
	load := loadMin + time.Duration(t.random.Int64N(int64(loadMax-loadMin)))
	select {
	case <-ctx.Done():
	case <-time.After(load):
	}
	memory := t.process.Memory()
	how, took := t.ending.String(), time.Duration(0)
	err := t.process.Alive()
	if err == nil {
		if round%terminateEvery == 0 {
			how = "term"
			took, err = t.process.Terminate()
		} else {
			err = t.ending.end(t.process, t.random)
		}
	}
	stop()
	side.Wait()
	if err != nil {
		return err
	}
	if err := t.ending.restore(); err != nil {
		return err
	}
	began := time.Now()
	if err := t.process.Start(ctx); err != nil {
		return err
	}
	restart := time.Since(began)
	if err := books.audit(ctx); err != nil {
		return fmt.Errorf("metadata after the restart: %w", err)
	}
	records, err := audit(ctx, t.kafka, t.ledger, t.o, false)
	acked, _ := t.ledger.counts()
	t.o.log.Info("round", "n", round, "end", how, "load", load.Round(time.Millisecond), "ending", took.Round(time.Millisecond),
		"restart", restart.Round(time.Millisecond), "acknowledged", acked, "read_back", records, "rss_mib", memory>>20)
	return errors.Join(append(t.ledger.promisesBroken(), err)...)
}

// verdict joins an error with the broken promises.
func (t *test) verdict(err error) error {
	broken := t.ledger.promisesBroken()
	for _, b := range broken {
		if errors.Is(err, b) {
			return err // a round has reported them
		}
	}
	return errors.Join(append(broken, err)...)
}
