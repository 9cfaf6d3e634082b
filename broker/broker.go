package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"millrace/broker/config"
	"millrace/broker/replica"
	"millrace/broker/replication"
	"millrace/engine"
	"millrace/engine/disk"
	"millrace/netpoll"
	"millrace/raft"
)

// Broker is one running Kafka broker. See the package documentation for the
// life of a request, threads and the lock order.
type Broker struct {
	opts   Options
	log    *slog.Logger
	now    func() time.Time
	nodeID int32
	conf   *config.Broker

	engine     *engine.Engine
	meta       *raft.Node
	net        *netpoll.Server
	partitions *replica.Set
	groups     *groups
	sessions   *fetchSessions
	workers    *workers
	loaders    *workers
	addrs      []net.Addr

	cluster       *clusterNode // nil for a broker alone
	brokerEpoch   int64
	producerIDs   producerIDs
	fetchMaxBytes int32
	// Partitions of waiting Fetch requests, and how many there may be.
	fetchWaiting    atomic.Int64
	fetchWaitingMax int64

	// streams is the replication of a broker among several, once it runs.
	streams   atomic.Pointer[replication.Replication]
	applied   appliedIndex
	room      roomQueue
	requests  [100]atomic.Int64 // by api key
	ready     atomic.Bool
	draining  atomic.Bool // nothing waits any more
	failed    chan error
	failure   atomic.Pointer[error] // what failed delivered
	failOnce  sync.Once
	cancel    context.CancelFunc
	tickers   sync.WaitGroup
	closeOnce sync.Once
	closeErr  error
}

// Start opens the data directory, takes its place in the metadata and serves.
// It returns when clients can connect.
func Start(ctx context.Context, o Options) (*Broker, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(context.Background())
	b := &Broker{
		opts: o, log: o.Logger, now: o.Now, nodeID: o.NodeID, conf: o.Config,
		workers: newWorkers(run, 64), loaders: newWorkers(run, 2),
		failed: make(chan error, 1), cancel: cancel,
	}
	b.fetchMaxBytes = int32(o.Config.FetchMaxBytes())
	b.applied.cond.L = &b.applied.mu
	if err := b.start(ctx); err != nil {
		stop, done := context.WithTimeout(context.Background(), 10*time.Second)
		defer done()
		return nil, errors.Join(err, b.Shutdown(stop))
	}
	return b, nil
}

// start brings the layers up, from the disk to the clients.
func (b *Broker) start(ctx context.Context) error {
	m := b.opts.Machine
	if m == (config.Machine{}) {
		var err error
		if m, err = machine(b.opts.DataDir); err != nil {
			return fmt.Errorf("data directory %s: %w", b.opts.DataDir, err)
		}
	}
	sizes := b.conf.Sizes(m)
	if b.fetchWaitingMax = b.opts.fetchParts; b.fetchWaitingMax == 0 {
		b.fetchWaitingMax = fetchPartsMax(m)
	}
	b.sessions = newFetchSessions(b.conf.FetchSessionSlots(), int(b.fetchWaitingMax), b.now, b.topicName)
	if err := b.openEngine(sizes); err != nil {
		return err
	}
	if err := b.openNet(sizes); err != nil {
		return err
	}
	b.engine.Start()
	b.net.StartLoops()
	if err := b.openMeta(ctx); err != nil {
		return err
	}
	b.tickers.Add(1)
	go b.tick()
	b.net.Start()
	b.ready.Store(true)
	return nil
}

func (b *Broker) openEngine(sizes config.Sizes) error {
	o, err := b.engineOptions(sizes)
	if err != nil {
		return err
	}
	if b.engine, err = engine.Open(o); err != nil {
		return fmt.Errorf("data directory %s: %w", b.opts.DataDir, err)
	}
	b.reportRecovery(b.engine.Recovery())
	return nil
}

// reportRecovery says in the log what was found; damage and what it cost cannot be overlooked.
func (b *Broker) reportRecovery(r engine.RecoveryReport) {
	b.log.Info("log recovered", "dir", b.opts.DataDir, "took", r.Duration.Round(time.Millisecond), "partitions", r.Logs,
		"commits", r.Commits, "records", r.Records, "wal_bytes", r.WALBytes, "checkpoint_bytes", r.CheckpointBytes, "unfinished_commits", r.TornCommits)
	for _, d := range r.Damage {
		b.log.Error("the log is damaged; see: millrace log check", "file", d.File, "position", d.Pos, "reason", d.Reason)
	}
	for _, q := range r.Quarantined {
		b.log.Error("partition takes no records any more; see: millrace log check", "topic", q.Topic, "partition", q.Partition,
			"readable_up_to", q.Offset, "reason", q.Reason)
	}
}

// openNet makes the event loops and lets the first ones drive the shards, so
// that on a small machine one thread parses, appends, submits and answers.
func (b *Broker) openNet(sizes config.Sizes) error {
	srv, err := netpoll.New(b.netOptions(sizes), b)
	if err != nil {
		return err
	}
	b.net = srv
	loops := srv.Loops()
	for i, s := range b.engine.Shards() {
		if i >= len(loops) {
			break // the engine gives the others a thread of their own
		}
		s.Attach(loops[i])
		loops[i].AddFD(s.EventFD(), s.Poll)
		loops[i].OnTurnEnd(func() {
			s.Poll() // the leader's own write is under way before its followers are told
			b.flushReplication()
		})
	}
	return nil
}

// bind opens the listeners and returns where clients are told to come. Nobody
// is accepted before start has come to its end.
func (b *Broker) bind() (string, int32, error) {
	for _, a := range b.opts.ListenAddrs {
		addr, err := b.net.Listen(a)
		if err != nil {
			return "", 0, fmt.Errorf("listen on %s: %w", a, err)
		}
		b.addrs = append(b.addrs, addr)
	}
	return b.advertisedEndpoint()
}

// openMeta opens the metadata, forms the cluster on the first start, registers
// this process (which raises the leader epoch of all its partitions) and
// follows the image from then on. The listeners answer only after that. A broker
// among several has been let in by the controller when it returns.
func (b *Broker) openMeta(ctx context.Context) error {
	open, register := b.openAlone, b.registerAlone
	if b.opts.Cluster != nil {
		open, register = b.openCluster, b.registerInCluster
	}
	if err := open(ctx); err != nil {
		return err
	}
	host, port, err := b.bind()
	if err != nil {
		return err
	}
	if b.brokerEpoch, err = register(ctx, host, port); err != nil {
		return fmt.Errorf("register broker %d: %w", b.nodeID, err)
	}
	img := b.meta.Image()
	b.conf.SetDynamic(img)
	groups := groupConfigOf(b.conf)
	groups.TopicID = func(topic string) (id [16]byte) {
		if t := b.partitions.Topic(topic); t != nil {
			id = t.ID
		}
		return id
	}
	b.groups = newGroups(b, groups)
	settings := func(img *raft.Image, topic string) *replica.Settings { return settingsOf(b.conf, img, topic) }
	o := replica.Options{
		Engine: b.engine, NodeID: b.nodeID, Settings: settings, Now: b.now, OnLead: b.onLead, OnResign: b.onResign,
	}
	if b.cluster != nil {
		o.Lease, o.Lag, o.Stopped = b.leaseValid, b.lag, b.partitionStopped
		o.Replicator = b.startReplication()
	}
	b.partitions = replica.NewSet(o)
	if err := b.partitions.Apply(img); err != nil {
		return err
	}
	for _, l := range b.partitions.Stray() {
		b.log.Warn("a log on disk belongs to no topic: kept, not served", "topic_id", raft.UUID(l.TopicID()), "partition", l.Partition())
	}
	b.applyIndex(img.Index)
	b.meta.Updates(b.follow)
	if b.cluster != nil {
		b.tickers.Go(func() { b.keepISR(b.workers.ctx) })
		b.tickers.Go(func() { b.keepHouse(b.workers.ctx) })
		if err := b.enterCluster(ctx); err != nil {
			return err
		}
	}
	b.log.Info("serving", "node_id", b.nodeID, "cluster_id", img.ClusterID, "listeners", fmt.Sprint(b.addrs), "advertised", net.JoinHostPort(host, strconv.Itoa(int(port))))
	return nil
}

// openAlone opens the metadata of a broker without others.
func (b *Broker) openAlone(ctx context.Context) (err error) {
	b.meta, err = raft.Open(raft.Options{
		Dir: filepath.Join(b.opts.DataDir, "raft"), FS: disk.OS(), NodeID: b.nodeID, ReplicaID: standaloneReplica,
		ExpectFormed: b.engine.ClusterID() != "", Logger: b.log, OnFailed: b.fail,
	})
	if err != nil {
		return fmt.Errorf("metadata: %w", err)
	}
	return b.form(ctx)
}

// registerAlone registers a broker without others, which leads everything from then on.
func (b *Broker) registerAlone(ctx context.Context, host string, port int32) (int64, error) {
	res, err := b.meta.Propose(ctx, raft.RegisterBroker{
		ID: b.nodeID, ReplicaID: standaloneReplica, DirectoryID: b.engine.DirectoryID(), IncarnationID: raft.NewUUID(),
		Host: host, Port: port, Rack: b.conf.Rack(), MaxLevel: raft.MaxLevel,
	})
	if err == nil {
		err = res.Err()
	}
	return res.Value, err
}

// standaloneReplica is the raft replica id of a broker that began alone. It
// becomes the first voter when others join.
const standaloneReplica = 1

// form gives a new cluster its id, or checks that the data directory and the
// metadata belong together.
func (b *Broker) form(ctx context.Context) error {
	if b.meta.Image().ClusterID == "" {
		id := raft.NewUUID().String()
		res, err := b.meta.Propose(ctx, raft.FormCluster{
			ClusterID: id, Level: raft.MaxLevel,
			Replicas: []raft.Replica{{ID: standaloneReplica, NodeID: b.nodeID, DirectoryID: b.engine.DirectoryID()}},
		})
		if err = errors.Join(err, res.Err()); err != nil {
			return fmt.Errorf("form the cluster: %w", err)
		}
	}
	if err := b.engine.SetClusterID(b.meta.Image().ClusterID); err != nil {
		return fmt.Errorf("data directory %s: %w", b.opts.DataDir, err)
	}
	return nil
}

// follow applies an image that the metadata agreed on; it runs on the
// metadata's own goroutine.
func (b *Broker) follow(old, img *raft.Image) {
	b.conf.SetDynamic(img)
	if err := b.partitions.Apply(img); err != nil {
		b.fail(fmt.Errorf("metadata could not be applied: %w", err))
		return
	}
	b.applyIndex(img.Index)
	var gone []string
	for _, c := range raft.TopicChanges(old, img) {
		if c.New == nil && img.Topic(c.Old.Name) == nil {
			gone = append(gone, c.Old.Name)
		}
	}
	if len(gone) > 0 {
		b.groups.topicsDeleted(gone)
	}
}

// applyIndex notes that the partitions follow the metadata up to an index.
func (b *Broker) applyIndex(index uint64) {
	b.applied.set(index)
	if b.cluster != nil {
		b.cluster.replication.ImageChanged()
	}
}

func (b *Broker) onLead(p *replica.Partition) {
	if p.Topic == offsetsTopic {
		b.groups.lead(p)
	}
}

func (b *Broker) onResign(p *replica.Partition) {
	if p.Topic == offsetsTopic {
		b.groups.resign(p)
	}
}

// tick runs the coordinator's timers, and ends the waits of producers.
func (b *Broker) tick() {
	defer b.tickers.Done()
	t := time.NewTicker(50 * time.Millisecond) //nolint:forbidigo // the timers' own clock
	defer t.Stop()
	for n := 0; ; n++ {
		select {
		case <-b.workers.ctx.Done():
			return
		case <-t.C:
			b.groups.tick()
			b.checkSession()
			if n%4 == 0 && b.cluster != nil {
				b.partitions.Expire(b.now().UnixNano())
			}
		}
	}
}

// fail ends the broker's service for good: the first failed write, metadata that
// cannot go on, another process in its place.
func (b *Broker) fail(err error) {
	b.failOnce.Do(func() {
		b.ready.Store(false)
		b.failure.Store(&err)
		what := "this broker has failed and ends"
		if b.engine != nil && b.engine.Failed() != nil {
			what = "the data directory failed: nothing more is acknowledged"
		}
		b.log.Error(what, "error", err)
		b.failed <- err
	})
}

// Failed delivers the error that ends this broker's service; the process is
// expected to exit with it.
func (b *Broker) Failed() <-chan error { return b.failed }

// Ready tells whether clients are served.
func (b *Broker) Ready() bool { return b.ready.Load() }

// Addr is the address of the first listener.
func (b *Broker) Addr() net.Addr { return b.addrs[0] }

// Addrs are the addresses of all listeners.
func (b *Broker) Addrs() []net.Addr { return b.addrs }

// controllerID names the controller. Admin requests may go to any broker, so that any
// one is named while the controller is away.
func (b *Broker) controllerID(img *raft.Image) int32 {
	if c := img.Broker(img.Controller.NodeID); c != nil && !c.Fenced {
		return c.ID
	}
	if me := img.Broker(b.nodeID); me != nil && !me.Fenced {
		return b.nodeID
	}
	for _, n := range img.SortedBrokers() {
		if !n.Fenced {
			return n.ID
		}
	}
	return raft.NoBroker
}

// Shutdown drains the connections, ends the background work, flushes and
// checkpoints. It may be called more than once.
func (b *Broker) Shutdown(ctx context.Context) error {
	b.closeOnce.Do(func() { b.closeErr = b.shutdown(ctx) })
	return b.closeErr
}

// endWaits answers what waits for something that may not come for a long time: Fetch requests within their max.wait, and
// members of groups that rebalance.
func (b *Broker) endWaits() {
	b.draining.Store(true)
	if b.partitions == nil {
		return // it never started
	}
	for _, t := range b.partitions.Topics() {
		for _, p := range t.Partitions() {
			if p != nil {
				p.WakeWatchers()
			}
		}
	}
	b.groups.retire()
}

func (b *Broker) shutdown(ctx context.Context) error {
	b.ready.Store(false)
	var errs []error
	b.leaveCluster(ctx)
	if b.net != nil {
		b.endWaits()
		errs = append(errs, b.net.Drain(ctx))
	}
	b.cancel()
	b.tickers.Wait()
	b.workers.Wait()
	b.loaders.Wait()
	b.closeCluster()
	if b.meta != nil {
		errs = append(errs, b.meta.Close())
	}
	// The loops drive the shards until the engine has flushed.
	if b.engine != nil {
		err := b.engine.Close(ctx)
		if err == nil {
			err = b.noteCleanStop()
		}
		errs = append(errs, err)
	}
	if b.net != nil {
		errs = append(errs, b.net.Shutdown(ctx))
	}
	return errors.Join(errs...)
}
