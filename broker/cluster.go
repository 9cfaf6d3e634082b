package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"millrace/broker/replica"
	"millrace/broker/replication"
	"millrace/engine"
	"millrace/engine/disk"
	"millrace/raft"
	"millrace/raft/controller"
	"millrace/raft/transport"
)

// clusterNode is what a broker among several has beyond one alone. See doc.go for the order of a start.
type clusterNode struct {
	directory   raft.UUID
	incarnation raft.UUID // of this process
	boot        string    // names the running kernel; "": not known
	addr        string    // of the cluster port, as the others are told

	controller  *controller.Controller // nil before the metadata is open
	session     *controller.Session    // nil before the registration
	stopping    atomic.Bool
	replication *replication.Replication // nil before the registration
}

// agreed are settings that a cluster has for all its nodes: those of the topic count, then the cluster-wide dynamic
// ones, then the default. The metadata acts on them (raft.Image.MinISR, unclean elections), and it cannot know what a
// node has in its file. So a file's value is given to a cluster that has none yet, and does nothing otherwise.
var agreed = []string{"auto.leader.rebalance.enable", "min.insync.replicas", "unclean.leader.election.enable"}

// agreedInFile are the agreed settings that the file or the command line name.
func (b *Broker) agreedInFile() map[string]string {
	out := map[string]string{}
	for _, name := range agreed {
		if v, ok := b.opts.Config.Static(name); ok {
			out[name] = v
		}
	}
	return out
}

// openCluster opens the metadata of a broker among several, and returns when a quorum answers and the cluster is formed.
func (b *Broker) openCluster(ctx context.Context) error {
	o := b.opts.Cluster
	c := &clusterNode{directory: b.engine.DirectoryID(), incarnation: raft.NewUUID()}
	b.cluster = c
	b.conf = b.conf.Without(agreed...)
	var err error
	if c.boot, err = disk.OS().BootID(); err != nil {
		b.log.Warn("boot id unknown: every unclean stop counts as a power cut", "error", err)
	}
	host, err := b.clientHost("")
	if err != nil {
		return err
	}
	l, err := o.listen()
	if err != nil {
		return err
	}
	if c.addr, err = o.advertise(l, host); err != nil {
		return errors.Join(err, l.Close())
	}
	if err := b.openNode(ctx, l); err != nil {
		return err
	}
	b.serveLogEnds()
	c.controller = controller.Run(b.meta, controller.Options{Config: o.controller, Logger: b.log})
	done := b.waitingFor("a quorum of the cluster's voters")
	_, err = b.meta.AwaitReady(ctx)
	done()
	if err != nil {
		return fmt.Errorf("metadata: no quorum: %w", explain(err))
	}
	if err := b.untilAnswered(ctx, func() error { return b.meta.Form(ctx) }); err != nil {
		return fmt.Errorf("form the cluster: %w", err)
	}
	if err := b.engine.SetClusterID(b.meta.Image().ClusterID); err != nil {
		return fmt.Errorf("data directory %s: %w", b.opts.DataDir, err)
	}
	return b.giveSettings(ctx)
}

// openNode opens the raft replica. A node that joins waits there for a member that lets it in, and does not hear ctx: so
// that is done aside.
func (b *Broker) openNode(ctx context.Context, l net.Listener) error {
	o := b.opts.Cluster
	type opened struct {
		n   *raft.Node
		err error
	}
	done := make(chan opened, 1)
	cluster := &raft.Cluster{
		Listener: l, Advertise: b.cluster.addr, Peers: o.Peers, Bootstrap: o.Bootstrap, Join: o.Join,
		DirectoryID: b.cluster.directory, IncarnationID: b.cluster.incarnation, Settings: b.agreedInFile(),
		TLS: o.TLS, Secret: o.Secret, TickMillis: o.tickMillis,
	}
	go func() {
		n, err := raft.Open(raft.Options{
			Dir: filepath.Join(b.opts.DataDir, "raft"), FS: disk.OS(), NodeID: b.nodeID, ExpectFormed: b.engine.ClusterID() != "",
			Logger: b.log, OnFailed: b.fail, Cluster: cluster,
		})
		if err != nil {
			_ = l.Close() // it may have failed before the port was its own
		}
		done <- opened{n, err}
	}()
	waited := b.waitingFor("a member of the cluster that lets this node in")
	defer waited()
	select {
	case r := <-done:
		b.meta = r.n
		if r.err != nil {
			return fmt.Errorf("metadata: %w", explain(r.err))
		}
		return nil
	case <-ctx.Done():
		go func() {
			if r := <-done; r.n != nil {
				_ = r.n.Close()
			}
		}()
		return ctx.Err()
	}
}

// explain says what an operator can do about a refusal.
func explain(err error) error {
	switch {
	case errors.Is(err, raft.ErrReplaced):
		return fmt.Errorf("%w; if the old data directory is lost for good, remove its node from the cluster (millrace cluster remove) and start this one with --join", err)
	case errors.Is(err, raft.ErrMetadataLost):
		return fmt.Errorf("%w; its other nodes have it: remove this node from the cluster (millrace cluster remove) and let it --join with an empty directory", err)
	default:
		return err
	}
}

// untilAnswered repeats what may be repeated for as long as the metadata gives no answer and ctx lasts.
func (b *Broker) untilAnswered(ctx context.Context, f func() error) error {
	for {
		err := f()
		if failed := b.failure.Load(); failed != nil {
			return *failed
		}
		if err == nil || ctx.Err() != nil || !errors.Is(err, raft.ErrNotReady) && !errors.Is(err, raft.ErrOutcomeUnknown) || errors.Is(err, raft.ErrClosed) {
			return err
		}
		if err := pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// giveSettings gives the cluster what only this node's file says, and tells what of the file does nothing.
func (b *Broker) giveSettings(ctx context.Context) error {
	img := b.meta.Image()
	for name, value := range b.agreedInFile() {
		now, there := img.ClusterConfig()[name]
		switch {
		case there && now != value:
			b.log.Warn("a setting of the configuration file is not in effect: the cluster has another value for all nodes (kafka-configs --entity-default alters it)",
				"name", name, "file", value, "cluster", now)
		case !there && img.Level >= raft.MaxLevel:
			err := b.untilAnswered(ctx, func() error {
				_, err := b.meta.Propose(ctx, raft.AlterConfigs{Resources: []raft.ConfigChange{{
					Resource: raft.ConfigResource{Type: raft.ConfigBroker}, Set: map[string]string{name: value}, ExpectAbsent: []string{name},
				}}})
				return err
			})
			if err != nil {
				return fmt.Errorf("give the cluster %s=%s: %w", name, value, err)
			}
		}
	}
	return nil
}

// registerInCluster registers this process, fenced, and returns its broker epoch. The command takes the broker out of
// every leadership, and of ISR and ELR where records may be lost.
func (b *Broker) registerInCluster(ctx context.Context, host string, port int32) (int64, error) {
	c, fsys := b.cluster, disk.OS()
	last, err := readRegistration(fsys, b.opts.DataDir)
	if err != nil {
		return 0, err
	}
	cmd := raft.RegisterBrokerV2{
		RegisterBroker: raft.RegisterBroker{
			ID: b.nodeID, ReplicaID: b.meta.ReplicaID(), DirectoryID: c.directory, IncarnationID: c.incarnation,
			Host: host, Port: port, Rack: b.conf.Rack(), MaxLevel: raft.MaxLevel, Fenced: true,
		},
		Addr: c.addr, Listeners: []raft.Listener{{Name: "PLAINTEXT", Host: host, Port: port}},
		PowerLost:        last.powerLost(b.meta.Image(), b.nodeID, c.directory, c.boot),
		RelaxedByDefault: b.conf.Topic(nil).FlushMessages > 1,
		Damaged:          damaged(b.engine.Recovery().Quarantined),
	}
	if cmd.PowerLost {
		b.log.Warn("the machine lost power, or was restarted, without a clean stop: this broker leaves the in-sync replicas of topics with flush.messages above 1")
	}
	if last == nil {
		if err := (registration{BrokerEpoch: noRegistration, BootID: c.boot}).write(fsys, b.opts.DataDir); err != nil {
			return 0, err
		}
	}
	done := b.waitingFor("the registration of this broker")
	defer done()
	var res raft.Result
	err = b.untilAnswered(ctx, func() (err error) {
		if res, err = b.meta.ProposeAgain(ctx, cmd); err == nil && res.Code == raft.UnsupportedLevel && b.meta.Image().Level < raft.MaxLevel {
			// A directory from before there were clusters: its first leader is about to finalise their level.
			return fmt.Errorf("%w: %w", raft.ErrNotReady, res.Err())
		}
		return err
	})
	if err == nil {
		err = res.Err()
	}
	if err != nil {
		return 0, err
	}
	if err := (registration{BrokerEpoch: res.Value, BootID: c.boot}).write(fsys, b.opts.DataDir); err != nil {
		return 0, err
	}
	b.meta.SetBrokerEpoch(res.Value)
	return res.Value, nil
}

// damaged are the partitions that take no records any more, by topic.
func damaged(logs []engine.QuarantinedLog) []raft.TopicPartitions {
	byTopic := map[raft.UUID][]int32{}
	for _, q := range logs {
		byTopic[raft.UUID(q.TopicID)] = append(byTopic[raft.UUID(q.TopicID)], q.Partition)
	}
	var out []raft.TopicPartitions
	for id, partitions := range byTopic {
		out = append(out, raft.TopicPartitions{TopicID: id, Partitions: partitions})
	}
	return out
}

// enterCluster begins the session of a registered broker whose partitions follow the image, and returns when the
// controller has let it in: before that it leads nothing, and no client is accepted.
func (b *Broker) enterCluster(ctx context.Context) error {
	c := b.cluster
	c.session = controller.NewSession(b.meta, controller.SessionOptions{
		BrokerID: b.nodeID, BrokerEpoch: b.brokerEpoch, Status: b.sessionStatus, Local: c.controller, Logger: b.log,
	})
	done := b.waitingFor("the controller to let this broker in")
	defer done()
	for img := b.meta.Image(); ; {
		me := img.Broker(b.nodeID)
		switch {
		case c.session.Stale(), me == nil, me.Epoch != b.brokerEpoch:
			return errStale
		case !me.Fenced:
			return b.awaitImage(ctx, img.Index)
		}
		look, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		next, err := b.meta.WaitIndex(look, img.Index+1)
		cancel()
		if err != nil && (ctx.Err() != nil || errors.Is(err, raft.ErrClosed)) {
			return err
		}
		if failed := b.failure.Load(); failed != nil {
			return *failed
		}
		img = next
	}
}

var errStale = errors.New("the cluster knows another process as this broker, or none: two processes must not have one node id")

// startReplication starts what moves records between brokers, for partitions that lead or follow from then on. It runs
// after the registration and before the first image is applied; the cluster port is open.
func (b *Broker) startReplication() replica.Replicator {
	r := replication.New(replication.Options{
		NodeID: b.nodeID, BrokerEpoch: func() int64 { return b.brokerEpoch }, ImageIndex: b.applied.get,
		Find: func(topic [16]byte, partition int32) *replica.Partition {
			// Nobody asks before the first image was applied: its index comes after it.
			if t := b.partitions.TopicByID(topic); t != nil {
				return t.Partition(partition)
			}
			return nil
		},
		Flushed: true, Dial: b.dialBroker, CatchUpBytesPerSecond: b.conf.CatchUpBytesPerSecond, Logger: b.log, Now: b.now,
	})
	r.Serve(b.meta.Port())
	b.cluster.replication = r
	b.streams.Store(r)
	return r
}

// flushReplication sends what replicas have to say to each other, at the end of a turn and behind each commit of a thread
// that drives a shard.
func (b *Broker) flushReplication() {
	if r := b.streams.Load(); r != nil {
		r.Flush()
	}
}

// dialBroker connects to another broker's cluster port.
func (b *Broker) dialBroker(ctx context.Context, id int32, kind transport.Kind) (*transport.Conn, error) {
	to, ok := b.meta.Target(id)
	if !ok {
		return nil, errNoAddress
	}
	return b.meta.Port().Dial(ctx, to, kind)
}

// leaseValid tells whether this broker may believe that it is not fenced. Beyond the lease acks=0 and acks=1 are to be
// refused; acks=all needs no lease, its epochs protect it.
func (b *Broker) leaseValid() bool {
	return b.cluster == nil || b.cluster.session != nil && b.cluster.session.Valid()
}

// sessionStatus is what the next heartbeat says.
func (b *Broker) sessionStatus() controller.Status {
	failed := b.engine.Failed() != nil
	return controller.Status{
		Ready: !failed && b.failure.Load() == nil, Stopping: b.cluster.stopping.Load(), Failed: failed,
		FlushAge: b.engine.FlushAge(), Index: b.applied.get(),
	}
}

// checkSession ends a broker whose place somebody else has taken.
func (b *Broker) checkSession() {
	if b.cluster != nil && b.cluster.session != nil && b.cluster.session.Stale() {
		b.fail(errStale)
	}
}

// How long a stop waits for others. A cluster that has lost its quorum must not keep a node from ending.
const (
	stopPatience     = 5 * time.Second
	stopLost         = time.Second // once the lease has ended
	handoverPatience = 2 * time.Second
)

// leaveCluster gives leaderships and ISR memberships away before a stop, and the metadata's leadership.
func (b *Broker) leaveCluster(ctx context.Context) {
	c := b.cluster
	if c == nil || c.session == nil {
		return
	}
	c.stopping.Store(true)
	c.session.Beat()
	ctx, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	lost := time.Duration(0)
	const look = 20 * time.Millisecond
	for waiting := true; waiting; {
		select {
		case <-c.session.MayStop():
			waiting = false
			b.log.Info("leaderships and in-sync memberships were given away")
		case <-ctx.Done():
			waiting = false
			b.log.Warn("no controller took the leaderships of this broker in time: others take them when its session ends", "waited", stopPatience)
		case <-after(look):
			c.session.Beat() // its answer says when all is moved
			lost += look
			if c.session.Valid() {
				lost = 0
			}
			if lost > stopLost || c.session.Stale() {
				waiting = false
				b.log.Warn("this broker has no controller: its leaderships are not given away in order")
			}
		}
	}
	if l, ok := b.meta.Leader(); ok && l.ReplicaID == b.meta.ReplicaID() {
		hand, done := context.WithTimeout(ctx, handoverPatience)
		defer done()
		if err := b.meta.Handover(hand); err != nil {
			b.log.Info("the metadata's leadership was not handed over", "error", err)
		}
	}
}

// closeCluster ends the background work of a node of a cluster; its metadata is still open.
func (b *Broker) closeCluster() {
	c := b.cluster
	if c == nil {
		return
	}
	if c.replication != nil {
		c.replication.Close()
	}
	if c.session != nil {
		c.session.Close()
	}
	if c.controller != nil {
		c.controller.Close()
	}
}

// noteCleanStop is called when everything is flushed and closed.
func (b *Broker) noteCleanStop() error {
	if b.cluster == nil || b.cluster.session == nil || b.engine.Failed() != nil {
		return nil // it never registered, and the note of the last one still holds; or it is not clean
	}
	return registration{BrokerEpoch: b.brokerEpoch, BootID: b.cluster.boot, CleanStop: true}.write(disk.OS(), b.opts.DataDir)
}

// waitingFor says in the log what a start waits for, when that takes longer than a moment. done is called once it is over.
func (b *Broker) waitingFor(what string) (done func()) {
	over := make(chan struct{})
	go func() {
		for wait := time.Second; ; wait = 10 * time.Second {
			select {
			case <-over:
				return
			case <-after(wait):
				b.log.Info("no client is served yet: waiting for "+what, "node_id", b.nodeID)
			}
		}
	}()
	return func() { close(over) }
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-after(d):
		return nil
	}
}

func after(d time.Duration) <-chan time.Time { return time.After(d) } //nolint:forbidigo // waits for other machines, in real time

// clientHost is where clients are told to come: what was given, else the host that a listener has. listening "" stands
// for the first address of the options, which need not be open.
func (b *Broker) clientHost(listening string) (string, error) {
	if b.opts.AdvertisedHost != "" {
		return b.opts.AdvertisedHost, nil
	}
	if listening == "" {
		listening = b.opts.ListenAddrs[0]
	}
	host, _, err := net.SplitHostPort(listening)
	if err != nil {
		return "", err
	}
	ip := net.ParseIP(host)
	switch {
	case host == "" || ip != nil && ip.IsUnspecified():
		return "", errNoEndpoint
	case ip != nil && ip.IsLoopback() && ip.To4() == nil:
		return "localhost", nil
	case ip != nil && ip.IsLoopback():
		return "127.0.0.1", nil
	}
	return host, nil
}

// advertisedEndpoint is the host and port that clients are told, of the open listeners.
func (b *Broker) advertisedEndpoint() (string, int32, error) {
	listening := b.addrs[0].String()
	host, err := b.clientHost(listening)
	if err != nil {
		return "", 0, err
	}
	_, text, err := net.SplitHostPort(listening)
	if err != nil {
		return "", 0, err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return "", 0, err
	}
	if b.opts.AdvertisedPort != 0 {
		port = int(b.opts.AdvertisedPort)
	}
	return host, int32(port), nil
}
