package compat

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

func franz(t testing.TB, broker string, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(broker), kgo.MetadataMinAge(50 * time.Millisecond)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// createTopic creates a topic of a name that nobody else uses.
func createTopic(t testing.TB, broker string, partitions int32, configs ...string) string {
	t.Helper()
	settings := map[string]*string{}
	for i := 0; i < len(configs); i += 2 {
		settings[configs[i]] = &configs[i+1]
	}
	topic := Topic("franz")
	if _, err := kadm.NewClient(franz(t, broker)).CreateTopic(within(t, 20*time.Second), partitions, 1, settings, topic); err != nil {
		t.Fatal(err)
	}
	return topic
}

// ledger counts how often each record was read.
type ledger struct {
	mu   sync.Mutex
	seen []int
	left int
	all  chan struct{} // closed when nothing is left
}

func newLedger(n int) *ledger {
	return &ledger{seen: make([]int, n), left: n, all: make(chan struct{})}
}

func (l *ledger) note(t testing.TB, r *kgo.Record) {
	i, err := strconv.Atoi(string(r.Value))
	if err != nil {
		t.Errorf("offset %d: %v", r.Offset, err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen[i]++; l.seen[i] == 1 {
		if l.left--; l.left == 0 {
			close(l.all)
		}
	}
}

// member reads and commits until it is told to go; the returned function ends it and waits for it.
func member(t testing.TB, broker, topic, group string, l *ledger, opts ...kgo.Opt) (leave func()) {
	c := franz(t, broker, append([]kgo.Opt{
		kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
		kgo.SessionTimeout(6 * time.Second), kgo.HeartbeatInterval(200 * time.Millisecond), kgo.FetchMaxWait(200 * time.Millisecond),
	}, opts...)...)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			f := c.PollRecords(ctx, 500)
			f.EachRecord(func(r *kgo.Record) { l.note(t, r) })
			if err := c.CommitUncommittedOffsets(t.Context()); err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, kerr.RebalanceInProgress) &&
				!errors.Is(err, kerr.IllegalGeneration) && !errors.Is(err, kerr.UnknownMemberID) {
				t.Errorf("commit: %v", err)
			}
			c.AllowRebalance()
		}
		c.CloseAllowingRebalance()
	}()
	return func() {
		cancel()
		<-done
	}
}

// Members come, go and come back while records are produced: none is lost, and few are read twice.
func TestFranzGoGroupsRebalanceUnderLoad(t *testing.T) {
	t.Parallel()
	broker := Broker(t, fastGroups...)
	for name, opts := range map[string][]kgo.Opt{
		"cooperative-sticky": {kgo.Balancers(kgo.CooperativeStickyBalancer())},
		"sticky":             {kgo.Balancers(kgo.StickyBalancer())},
		"range":              {kgo.Balancers(kgo.RangeBalancer())},
		"roundrobin":         {kgo.Balancers(kgo.RoundRobinBalancer())},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rebalance(t, broker, opts, false)
		})
	}
	t.Run("static members", func(t *testing.T) {
		t.Parallel()
		rebalance(t, broker, nil, true)
	})
}

func rebalance(t *testing.T, broker string, opts []kgo.Opt, static bool) {
	const records, partitions = 20_000, 6
	topic, group := createTopic(t, broker, partitions), Topic("group")
	l := newLedger(records)
	join := func(name string) func() {
		all := opts
		if static {
			all = append([]kgo.Opt{kgo.InstanceID(name)}, opts...)
		}
		return member(t, broker, topic, group, l, append(all, kgo.ClientID(name))...)
	}
	produced := make(chan struct{})
	go func() {
		defer close(produced)
		p := franz(t, broker, kgo.DefaultProduceTopic(topic), kgo.ProducerLinger(2*time.Millisecond), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
		for i := range records {
			p.Produce(t.Context(), kgo.StringRecord(strconv.Itoa(i)), func(_ *kgo.Record, err error) {
				if err != nil {
					t.Errorf("produce: %v", err)
				}
			})
			if i%100 == 99 {
				time.Sleep(15 * time.Millisecond) // 3 s in all
			}
		}
		if err := p.Flush(t.Context()); err != nil {
			t.Errorf("flush: %v", err)
		}
	}()
	step := func() { time.Sleep(400 * time.Millisecond) }
	a, b := join("a"), join("b")
	step()
	c := join("c")
	step()
	b()
	step()
	b, d := join("b"), join("d")
	step()
	a()
	if static {
		a = join("a") // back before its session ends
	} else {
		a = func() {}
	}
	select {
	case <-l.all:
	case <-time.After(40 * time.Second):
		t.Errorf("%d of %d records were not read", l.left, records)
	}
	<-produced
	for _, leave := range []func(){a, b, c, d} {
		leave()
	}
	twice := 0
	for _, n := range l.seen {
		if n > 1 {
			twice++
		}
	}
	if t.Logf("%d records were read more than once", twice); twice > records/10 {
		t.Errorf("%d of %d records were read more than once", twice, records)
	}
	adm := kadm.NewClient(franz(t, broker))
	lags, err := adm.Lag(within(t, 20*time.Second), group)
	lag := lags[group]
	if err != nil || lag.Error() != nil || lag.Lag.Total() != 0 {
		t.Errorf("lag %+v, %v, %v", lag.Lag, lag.Error(), err)
	}
	if static {
		var ids []string
		for _, m := range lag.Members {
			ids = append(ids, fmt.Sprint(m.InstanceID))
		}
		if len(ids) != 4 {
			t.Errorf("static members do not leave by going: %v", ids)
		}
	}
}

// The broker goes away and comes back with raised leader epochs: producer and group go on where they were.
func TestFranzGoOutlivesARestart(t *testing.T) {
	t.Parallel()
	s := newServer(t, fastGroups...)
	const records = 6000
	topic, group := createTopic(t, s.addr, 3), Topic("group")
	l := newLedger(records)
	leave := member(t, s.addr, topic, group, l)
	p := franz(t, s.addr, kgo.DefaultProduceTopic(topic), kgo.ProducerLinger(time.Millisecond), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	var wg sync.WaitGroup
	for i := range records {
		wg.Add(1)
		p.Produce(t.Context(), kgo.StringRecord(strconv.Itoa(i)), func(_ *kgo.Record, err error) {
			defer wg.Done()
			if err != nil {
				t.Errorf("produce: %v", err)
			}
		})
		if i%20 == 19 {
			time.Sleep(5 * time.Millisecond)
		}
		if i == records/3 || i == 2*records/3 {
			s.stop()
			s.start()
		}
	}
	wg.Wait()
	select {
	case <-l.all:
	case <-time.After(40 * time.Second):
		t.Errorf("%d of %d records were not read", l.left, records)
	}
	leave()
	// Nothing was written twice, however often it was sent.
	ends, err := kadm.NewClient(franz(t, s.addr)).ListEndOffsets(within(t, 20*time.Second), topic)
	if err != nil {
		t.Fatal(err)
	}
	var total int64
	ends.Each(func(o kadm.ListedOffset) { total += o.Offset })
	if total != records {
		t.Errorf("%d records are in the topic, %d were produced", total, records)
	}
}
