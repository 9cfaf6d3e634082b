package raft

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lni/dragonboat/v4/raftpb"

	"millrace/raft/transport"
)

// Errors of nodes of a cluster.
var (
	// ErrPeers is wrapped by what is wrong with a list of peers.
	ErrPeers = errors.New("raft: list of peers")
	// ErrNotMember: an empty directory was given neither --bootstrap nor --join.
	ErrNotMember = errors.New("raft: this data directory belongs to no cluster yet: start it with --bootstrap (the first nodes) or --join (later ones)")
	// ErrReplaced: the cluster knows this node with another data directory, or removed it. What was in that directory
	// voted; an empty one must not vote in its name.
	ErrReplaced = errors.New("raft: the cluster does not let this data directory in")
	// ErrSecret: all peers know another cluster secret than this node, or none.
	ErrSecret = errors.New("raft: the other nodes do not share this node's cluster secret")
	// ErrRemoved: this node's replica was removed while it ran.
	ErrRemoved = errors.New("raft: this node was removed from the cluster")
	// ErrClusterDirectory: a directory of several voters opened without a cluster port.
	ErrClusterDirectory = errors.New("raft: this data directory is of a cluster of several nodes and cannot run alone")
)

// Peer is another node, as an operator names it.
type Peer struct {
	NodeID int32
	Addr   string // host:port of its cluster port
}

// ParsePeers reads "2@host:port,3@host:port".
func ParsePeers(s string) ([]Peer, error) {
	var out []Peer
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		idText, addr, ok := strings.Cut(part, "@")
		id, err := strconv.ParseInt(idText, 10, 32)
		if !ok || err != nil || id < 0 {
			return nil, fmt.Errorf("%w: %q is not of the form 2@host:port", ErrPeers, part)
		}
		host, port, err := net.SplitHostPort(addr)
		if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 || host == "" {
			return nil, fmt.Errorf("%w: %q has no host and port", ErrPeers, part)
		}
		for _, p := range out {
			if p.NodeID == int32(id) || p.Addr == addr {
				return nil, fmt.Errorf("%w: %q is named twice", ErrPeers, part)
			}
		}
		out = append(out, Peer{NodeID: int32(id), Addr: addr})
	}
	return out, nil
}

// CheckAdvertised refuses an advertised loopback address beside a peer on another machine: that peer could not reach it.
func CheckAdvertised(advertise string, peers []Peer) error {
	host, _, err := net.SplitHostPort(advertise)
	if err != nil {
		return fmt.Errorf("%w: advertised address %q: %w", ErrPeers, advertise, err)
	}
	if !isLoopback(host) {
		return nil
	}
	for _, p := range peers {
		if h, _, err := net.SplitHostPort(p.Addr); err == nil && !isLoopback(h) {
			return fmt.Errorf("%w: node %d at %s cannot reach the advertised address %s", ErrPeers, p.NodeID, p.Addr, advertise)
		}
	}
	return nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Cluster are the options of a node with a cluster port.
type Cluster struct {
	// Listener is the open cluster port; the node closes it. Dial is how others are reached; nil is TCP.
	Listener net.Listener
	Dial     func(ctx context.Context, addr string) (net.Conn, error)
	// Advertise is where others reach the port; "" is the listener's address.
	Advertise string
	// Peers are the other nodes: all first ones for Bootstrap, some members for Join; later only hints.
	Peers []Peer
	// Bootstrap makes an empty directory one of the first voters, Join has it admitted by a running cluster as a
	// non-voting node. Both are ignored once the directory belongs to a cluster.
	Bootstrap, Join bool
	// DirectoryID is the data directory's random id, IncarnationID this process's.
	DirectoryID, IncarnationID UUID
	// Settings are cluster-wide settings (ConfigBroker, for all) that Form gives a new cluster.
	Settings map[string]string
	TLS      *transport.TLS
	Secret   []byte

	// TickMillis is dragonboat's clock, 20; an election starts after ElectionTicks (30) to twice as many.
	TickMillis, ElectionTicks uint64
	// Ping and Silence are the transport's; zero are its defaults.
	Ping, Silence time.Duration
}

const (
	clusterTickMillis    = 20
	clusterElectionTicks = 30
	clusterHeartbeat     = 3

	probeTimeout = 2 * time.Second
	callTimeout  = 10 * time.Second

	// MaxVoters is how many nodes vote at most; further ones follow without a vote.
	MaxVoters = 5
)

// clusterNode is what a node with a cluster port has beyond one without.
type clusterNode struct {
	n         *Node
	c         *Cluster
	port      *transport.Transport
	book      *peerBook
	members   map[uint64]string // first voters, replica id to name; nil for a joined node
	memberIDs []int32           // node ids of the first voters that this start was told
	epoch     atomic.Int64      // broker epoch
	wake      chan struct{}     // the leader changed
	done      atomic.Bool       // Close has begun

	mu    sync.Mutex
	tries map[uint64]int    // dials of a replica, to go through its addresses
	seen  map[uint64]string // addresses that peers named in handshakes
}

func newClusterNode(n *Node) *clusterNode {
	k := &clusterNode{n: n, c: n.o.Cluster, wake: make(chan struct{}, 1), tries: map[uint64]int{}, seen: map[uint64]string{}}
	if k.c.TickMillis == 0 {
		k.c.TickMillis = clusterTickMillis
	}
	if k.c.ElectionTicks == 0 {
		k.c.ElectionTicks = clusterElectionTicks
	}
	return k
}

// firstReplica is the raft replica id of a node that is there from the start. A standalone node has replica 1 whatever
// its node id, and nodes that join later get the next id that was never used.
func firstReplica(nodeID int32) uint64 { return uint64(nodeID) + 1 }

// open decides which replica this directory is, opens the port, and has an empty directory admitted.
func (k *clusterNode) open() error {
	n := k.n
	if k.c.DirectoryID.IsZero() || k.c.IncarnationID.IsZero() {
		return errors.New("raft: a node of a cluster needs a directory id and an incarnation id")
	}
	known, err := n.log.ListNodeInfo()
	if err != nil {
		return err
	}
	if k.book, err = openPeerBook(n.o.FS, n.o.Dir); err != nil {
		return err
	}
	switch {
	case len(known) == 1:
		n.replica.Store(known[0].ReplicaID)
		b, err := n.log.GetBootstrapInfo(shardID, n.replicaID())
		if err != nil {
			return err
		}
		if !b.Join {
			k.members = b.Addresses
		}
	case n.o.ExpectFormed:
		return fmt.Errorf("%w: %s", ErrMetadataLost, n.o.Dir)
	case k.c.Bootstrap:
		self := firstReplica(n.o.NodeID)
		n.replica.Store(self)
		k.members = map[uint64]string{self: replicaAddress(self)}
		k.memberIDs = []int32{n.o.NodeID}
		for _, p := range k.c.Peers {
			if p.NodeID == n.o.NodeID {
				return fmt.Errorf("%w: this node, %d, is among them", ErrPeers, p.NodeID)
			}
			k.members[firstReplica(p.NodeID)] = replicaAddress(firstReplica(p.NodeID))
			k.memberIDs = append(k.memberIDs, p.NodeID)
		}
		slices.Sort(k.memberIDs)
		if len(k.members) > MaxVoters {
			return fmt.Errorf("%w: %d first nodes, at most %d vote (others --join)", ErrPeers, len(k.members), MaxVoters)
		}
	case k.c.Join:
		n.replica.Store(0)
	default:
		return ErrNotMember
	}
	k.port = transport.New(transport.Options{
		Listener: k.c.Listener, Dial: k.c.Dial, Self: k.identity, Admit: k.admit, Resolve: k.resolve, Refused: k.refused,
		TLS: k.c.TLS, Secret: k.c.Secret, Logger: n.o.Logger, PingInterval: k.c.Ping, SilenceTimeout: k.c.Silence,
	})
	k.serve()
	k.port.Start()
	switch {
	case len(known) == 1:
		return nil
	case k.c.Bootstrap:
		return k.probe()
	default:
		return k.join()
	}
}

// probe asks the peers of an empty directory whether they know it. Those that are down are not waited for: nodes start
// in any order.
func (k *clusterNode) probe() error {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	answers := make(chan error, len(k.c.Peers))
	for _, p := range k.c.Peers {
		go func() {
			_, err := k.port.Call(ctx, transport.Target{Addr: p.Addr, NodeID: p.NodeID}, methodStatus, nil)
			answers <- err
		}()
	}
	strangers := 0
	for range k.c.Peers {
		var refused *transport.Refusal
		if err := <-answers; errors.As(err, &refused) {
			switch refused.Code {
			case transport.RefusedDirectory, transport.RefusedRemoved, transport.RefusedUnknown, transport.RefusedCluster,
				transport.RefusedMembers, transport.RefusedSelf:
				return fmt.Errorf("%w: --bootstrap: %w", ErrReplaced, err)
			case transport.RefusedSecret:
				// One peer with another secret is that peer's mistake, and is logged whenever it is met.
				if strangers++; strangers == len(k.c.Peers) {
					return fmt.Errorf("%w: %w", ErrSecret, err)
				}
			default: // says nothing about whether it knows us
			}
		}
	}
	return nil
}

// identity is who this node is in handshakes.
func (k *clusterNode) identity() transport.Identity {
	m := k.n.Image()
	id := transport.Identity{
		ClusterID: m.ClusterID, NodeID: k.n.o.NodeID, ReplicaID: k.n.replicaID(), DirectoryID: transport.ID(k.c.DirectoryID),
		Incarnation: transport.ID(k.c.IncarnationID), BrokerEpoch: k.epoch.Load(), Addr: k.advertised(),
	}
	if id.ClusterID == "" {
		id.ClusterID = k.book.clusterID()
	}
	if id.ClusterID == "" && len(k.memberIDs) > 0 {
		id.Members = strings.Trim(strings.ReplaceAll(fmt.Sprint(k.memberIDs), " ", ","), "[]")
	}
	return id
}

func (k *clusterNode) advertised() string {
	if k.c.Advertise != "" {
		return k.c.Advertise
	}
	if k.c.Listener != nil {
		return k.c.Listener.Addr().String()
	}
	return ""
}

// admit holds the rules of identity: a known raft replica has one data directory for ever. What the replicated state
// does not say yet is kept in a file of this node's own, so that a directory wiped between the first vote and the
// first registration is noticed too.
func (k *clusterNode) admit(p transport.Identity, kind transport.Kind) *transport.Refusal {
	if p.ReplicaID == 0 {
		if kind == transport.KindCall {
			return nil // it wants to join
		}
		return transport.Refuse(transport.RefusedUnknown, "node %d has no replica yet", p.NodeID)
	}
	m := k.n.Image()
	known := m.Replicas[p.ReplicaID]
	switch {
	case known != nil && known.Removed:
		return transport.Refuse(transport.RefusedRemoved, "replica %d of node %d", p.ReplicaID, p.NodeID)
	case known != nil && known.NodeID != p.NodeID:
		return transport.Refuse(transport.RefusedUnknown, "replica %d is node %d, not %d", p.ReplicaID, known.NodeID, p.NodeID)
	case known != nil && !known.DirectoryID.IsZero() && known.DirectoryID != UUID(p.DirectoryID):
		return transport.Refuse(transport.RefusedDirectory, "replica %d of node %d has data directory %s, not %s", p.ReplicaID, p.NodeID, known.DirectoryID, p.DirectoryID)
	case known == nil && m.ClusterID != "" && p.ClusterID == "":
		// One that knows the cluster may be newer than what this node has caught up with.
		return transport.Refuse(transport.RefusedUnknown, "replica %d (node %d): this cluster is formed already, new nodes --join", p.ReplicaID, p.NodeID)
	case known == nil && len(k.members) > 0 && k.members[p.ReplicaID] == "" && m.Index == 0:
		return transport.Refuse(transport.RefusedUnknown, "replica %d (node %d) is none of the first nodes", p.ReplicaID, p.NodeID)
	}
	if dir, ok, err := k.book.check(p.ReplicaID, UUID(p.DirectoryID)); err != nil {
		return transport.Refuse(transport.RefusedClosing, "%v", err)
	} else if !ok {
		return transport.Refuse(transport.RefusedDirectory, "replica %d of node %d has data directory %s, not %s", p.ReplicaID, p.NodeID, dir, p.DirectoryID)
	}
	if p.Addr != "" {
		k.mu.Lock()
		k.seen[p.ReplicaID] = p.Addr
		k.mu.Unlock()
	}
	return nil
}

// refused ends this node when a peer says that it must not be who it says it is, unless the replicated state, as far
// as it is known here, says that it is.
func (k *clusterNode) refused(to transport.Target, r *transport.Refusal) {
	if r.Code != transport.RefusedDirectory && r.Code != transport.RefusedRemoved {
		return
	}
	me := k.n.Image().Replicas[k.n.replicaID()]
	if r.Code == transport.RefusedDirectory && me != nil && me.DirectoryID == k.c.DirectoryID {
		return
	}
	if k.n.host.Load() == nil {
		return // still opening: probe reports it
	}
	k.n.fail(fmt.Errorf("%w: node %d: %w", ErrReplaced, to.NodeID, r))
}

// resolve goes through what is known of a replica's address: what it said itself, what is agreed, what the operator said.
func (k *clusterNode) resolve(replica uint64) (transport.Target, bool) {
	m := k.n.Image()
	to := transport.Target{NodeID: transport.NoNode, ReplicaID: replica}
	var addrs []string
	add := func(a string) {
		if a != "" && !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	add(k.seen[replica])
	if known := m.Replicas[replica]; known != nil {
		if known.Removed {
			return to, false
		}
		to.NodeID = known.NodeID
		add(known.Addr)
	} else if k.members[replica] != "" && len(k.members) > 1 {
		to.NodeID = int32(replica - 1)
	}
	for _, p := range k.c.Peers {
		if p.NodeID == to.NodeID {
			add(p.Addr)
		}
	}
	add(k.book.addr(replica))
	if len(addrs) == 0 {
		return to, false
	}
	to.Addr = addrs[k.tries[replica]%len(addrs)]
	k.tries[replica]++
	return to, true
}

// target is resolve for a node.
func (k *clusterNode) target(nodeID int32) (transport.Target, bool) {
	for _, r := range k.n.Image().Replicas {
		if r.NodeID == nodeID && !r.Removed {
			return k.resolve(r.ID)
		}
	}
	for _, p := range k.c.Peers {
		if p.NodeID == nodeID {
			return transport.Target{Addr: p.Addr, NodeID: nodeID}, true
		}
	}
	return transport.Target{}, false
}

// membersOnDisk lists the raft members that the log of a directory names, as far as that can be told without starting it.
func (n *Node) membersOnDisk() (voters map[uint64]bool, isVoter bool, err error) {
	voters = map[uint64]bool{}
	b, err := n.log.GetBootstrapInfo(shardID, n.replicaID())
	if err != nil {
		return nil, false, err
	}
	for id := range b.Addresses {
		voters[id] = true
	}
	s, err := n.log.GetSnapshot(shardID, n.replicaID())
	if err != nil {
		return nil, false, err
	}
	if s.Index > 0 {
		clear(voters)
		for id := range s.Membership.Addresses {
			voters[id] = true
		}
	}
	isVoter = voters[n.replicaID()]
	rs, err := n.log.ReadRaftState(shardID, n.replicaID(), s.Index)
	if err != nil || rs.EntryCount == 0 {
		return voters, isVoter, nil //nolint:nilerr // no log yet
	}
	entries, _, err := n.log.IterateEntries(nil, 0, shardID, n.replicaID(), rs.FirstIndex, rs.FirstIndex+rs.EntryCount, 0)
	if err != nil {
		return nil, false, err
	}
	for i := range entries {
		if entries[i].Type != raftpb.ConfigChangeEntry {
			continue
		}
		var cc raftpb.ConfigChange
		if cc.Unmarshal(entries[i].Cmd) != nil {
			continue
		}
		switch cc.Type {
		case raftpb.AddNode:
			voters[cc.ReplicaID] = true
		case raftpb.RemoveNode:
			delete(voters, cc.ReplicaID)
		default: // changes no voter
		}
	}
	return voters, isVoter, nil
}

// Form gives a bootstrapped cluster its id and first state, once, and returns when it has them. Every first node calls
// it; one of them forms. A cluster of three or more starts with min.insync.replicas 2, unless Cluster.Settings say
// something else.
func (n *Node) Form(ctx context.Context) error {
	m, err := n.Latest(ctx)
	if err != nil {
		return err
	}
	if m.ClusterID == "" {
		if n.cluster == nil || len(n.cluster.members) == 0 {
			return fmt.Errorf("%w: nothing to form", ErrNotMember)
		}
		c := FormCluster{ClusterID: NewUUID().String(), Level: MaxLevel}
		for _, id := range slices.Sorted(maps.Keys(n.cluster.members)) {
			node := int32(id - 1)
			if len(n.cluster.members) == 1 {
				node = n.o.NodeID
			}
			c.Replicas = append(c.Replicas, Replica{ID: id, NodeID: node})
			c.Brokers = append(c.Brokers, node)
		}
		r, err := n.Propose(ctx, c)
		if err == nil {
			err = r.Err()
		}
		if err != nil && !errors.Is(err, ClusterFormed) {
			return err
		}
		if m, err = n.Latest(ctx); err != nil {
			return err
		}
	}
	if n.cluster == nil {
		return nil
	}
	if err := n.cluster.book.setCluster(m.ClusterID); err != nil {
		return err
	}
	first := maps.Clone(n.cluster.c.Settings)
	if first == nil {
		first = map[string]string{}
	}
	if first[minISRKey] == "" && len(m.Replicas) >= 3 && len(n.cluster.members) >= 3 {
		first[minISRKey] = "2"
	}
	if len(first) > 0 && m.ClusterConfig() == nil && m.TopicCount() == 0 {
		_, err := n.Propose(ctx, AlterConfigs{Resources: []ConfigChange{{
			Resource: ConfigResource{Type: ConfigBroker}, Set: first, ExpectAbsent: sortedKeys(first),
		}}})
		return err
	}
	return nil
}

// DefaultReplicationFactor is min(3, brokers known), for topics that ask for none.
func (m *Image) DefaultReplicationFactor() int16 { return int16(max(1, min(3, len(m.Brokers)))) }

// AwaitReady waits until this replica has caught up with everything acknowledged before the call, which takes a leader
// and a quorum. Open of a node with a cluster port does not wait: nodes start in any order.
func (n *Node) AwaitReady(ctx context.Context) (*Image, error) {
	for {
		attempt, cancel := context.WithTimeout(ctx, time.Second)
		m, err := n.Latest(attempt)
		cancel()
		if err == nil {
			return m, nil
		}
		if ctx.Err() != nil || errors.Is(err, ErrClosed) {
			return nil, err
		}
		if failed := n.failed.Load(); failed != nil {
			return nil, *failed
		}
		select {
		case <-after(20 * time.Millisecond):
		case <-n.closing:
			return nil, ErrClosed
		}
	}
}

// Port is the cluster port: other packages register their streams and calls there. nil without Options.Cluster.
func (n *Node) Port() *transport.Transport {
	if n.cluster == nil {
		return nil
	}
	return n.cluster.port
}

// Target finds a node's cluster port for Port().Dial and Call.
func (n *Node) Target(nodeID int32) (transport.Target, bool) {
	if n.cluster == nil {
		return transport.Target{}, false
	}
	return n.cluster.target(nodeID)
}

// SetBrokerEpoch makes the epoch of this process's registration part of later handshakes.
func (n *Node) SetBrokerEpoch(epoch int64) {
	if n.cluster != nil {
		n.cluster.epoch.Store(epoch)
	}
}

// NodeID is this node's broker id.
func (n *Node) NodeID() int32 { return n.o.NodeID }

// ReplicaID is this node's raft replica.
func (n *Node) ReplicaID() uint64 { return n.replicaID() }

// Leader is who leads the metadata shard, as far as this node knows.
type Leader struct {
	ReplicaID uint64
	NodeID    int32 // NoBroker if its replica is not known here
	Term      uint64
}

// Leader returns the leader that this replica follows or is; false if it knows none.
func (n *Node) Leader() (Leader, bool) {
	host := n.host.Load()
	if host == nil {
		return Leader{}, false
	}
	id, term, ok, err := host.GetLeaderID(shardID)
	if !ok || err != nil {
		return Leader{}, false
	}
	l := Leader{ReplicaID: id, NodeID: NoBroker, Term: term}
	if id == n.replicaID() {
		l.NodeID = n.o.NodeID
	} else if r := n.Image().Replicas[id]; r != nil {
		l.NodeID = r.NodeID
	}
	return l, true
}

// ControllerEpoch returns the epoch with which this node may send the commands of a controller: it leads the shard
// and has claimed it in this term.
func (n *Node) ControllerEpoch() (uint64, bool) {
	c := n.Image().Controller
	if c.NodeID != n.o.NodeID {
		return 0, false
	}
	if n.cluster == nil {
		return c.Epoch, true
	}
	l, ok := n.Leader()
	if !ok || l.ReplicaID != n.replicaID() || l.Term != c.Term {
		return 0, false
	}
	return c.Epoch, true
}

// claim makes this node the controller whenever it leads the shard. It ends with the node.
func (k *clusterNode) claim() {
	n := k.n
	for {
		select {
		case <-n.closing:
			return
		case <-k.wake:
		case <-after(100 * time.Millisecond):
		}
		l, ok := n.Leader()
		m := n.Image()
		if ok && l.ReplicaID == n.replicaID() && m.ClusterID != "" && m.Level < clusterLevel && len(m.Brokers) <= 1 {
			// A directory from before there were clusters, and nobody who could be too old for them.
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			_, err := n.Propose(ctx, FinalizeLevel{Level: clusterLevel})
			cancel()
			if err != nil {
				n.o.Logger.Debug("level not finalised", "err", err)
			}
		}
		if m.ClusterID != "" && k.book.clusterID() == "" {
			if err := k.book.setCluster(m.ClusterID); err != nil {
				n.o.Logger.Warn("cluster id not noted", "err", err)
			}
		}
		if !ok || l.ReplicaID != n.replicaID() || m.ClusterID == "" || m.Level < clusterLevel {
			continue
		}
		if c := m.Controller; c.NodeID == n.o.NodeID && c.Term == l.Term {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		r, err := n.Propose(ctx, ClaimController{NodeID: n.o.NodeID, Term: l.Term})
		cancel()
		if err == nil && r.Code == OK {
			n.o.Logger.Info("controller", "node_id", n.o.NodeID, "epoch", r.Value, "term", l.Term)
		}
	}
}

// MemberList is who is in the raft group, by replica id.
type MemberList struct {
	Voters, NonVoting []uint64
	Removed           []uint64
	ChangeID          uint64
}

func sortedIDs[V any](m map[uint64]V) []uint64 {
	out := slices.Collect(maps.Keys(m))
	slices.SortFunc(out, cmp.Compare[uint64])
	return out
}

// TargetReplica finds a raft replica's cluster port.
func (n *Node) TargetReplica(replica uint64) (transport.Target, bool) {
	if n.cluster == nil {
		return transport.Target{}, false
	}
	return n.cluster.resolve(replica)
}
