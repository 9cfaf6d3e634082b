package raft

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"

	"millrace/raft/transport"
)

// Methods of the cluster port that belong to this package; others number theirs from FirstFreeMethod up.
const (
	methodStatus uint16 = 1
	methodJoin   uint16 = 2

	// FirstFreeMethod is the first number for Port().Serve by others.
	FirstFreeMethod uint16 = 16
)

// Errors of membership changes.
var (
	ErrTooManyVoters = errors.New("raft: there are five voters already")
	ErrNotCaughtUp   = errors.New("raft: the replica is too far behind to vote")
	ErrQuorumAtRisk  = errors.New("raft: too few of the voters that would be left can be reached")
	ErrNoReplica     = errors.New("raft: no such replica in the raft group")
)

// catchUpEntries is how far behind a replica may be that becomes a voter.
const catchUpEntries = 1000

// configure makes dragonboat's configuration that of a node with peers.
func (k *clusterNode) configure(host *config.NodeHostConfig, replica *config.Config) (members map[uint64]string, join bool, err error) {
	n := k.n
	host.RTTMillisecond = k.c.TickMillis
	host.Expert.TransportFactory = transport.Factory{Transport: k.port, Shard: shardID, ReplicaID: n.replicaID()}
	host.RaftEventListener = leaderListener{k}
	host.SystemEventListener = removalListener{k: k}
	replica.ElectionRTT, replica.HeartbeatRTT = k.c.ElectionTicks, max(1, min(clusterHeartbeat, k.c.ElectionTicks/5))
	if k.members != nil {
		return k.members, false, nil
	}
	// It joined without a vote. Once a snapshot says that it votes, no entry that promotes it is left in the log.
	replica.IsNonVoting = true
	s, err := n.log.GetSnapshot(shardID, n.replicaID())
	if err != nil {
		return nil, false, err
	}
	if s.Membership.Addresses[n.replicaID()] != "" {
		replica.IsNonVoting = false
	}
	return nil, true, nil
}

// leaderListener wakes the claim.
type leaderListener struct{ k *clusterNode }

// LeaderUpdated is part of raftio.IRaftEventListener.
func (l leaderListener) LeaderUpdated(raftio.LeaderInfo) {
	select {
	case l.k.wake <- struct{}{}:
	default:
	}
}

// removalListener ends a node whose removal it applied itself.
type removalListener struct {
	noEvents
	k *clusterNode
}

// NodeDeleted is part of raftio.ISystemEventListener.
func (l removalListener) NodeDeleted(raftio.NodeInfo) {
	if !l.k.done.Load() {
		l.k.n.fail(ErrRemoved)
	}
}

// noEvents is a raftio.ISystemEventListener that does not listen.
type noEvents struct{}

func (noEvents) NodeHostShuttingDown()                       {}
func (noEvents) NodeUnloaded(raftio.NodeInfo)                {}
func (noEvents) NodeReady(raftio.NodeInfo)                   {}
func (noEvents) MembershipChanged(raftio.NodeInfo)           {}
func (noEvents) ConnectionEstablished(raftio.ConnectionInfo) {}
func (noEvents) ConnectionFailed(raftio.ConnectionInfo)      {}
func (noEvents) SendSnapshotStarted(raftio.SnapshotInfo)     {}
func (noEvents) SendSnapshotCompleted(raftio.SnapshotInfo)   {}
func (noEvents) SendSnapshotAborted(raftio.SnapshotInfo)     {}
func (noEvents) SnapshotReceived(raftio.SnapshotInfo)        {}
func (noEvents) SnapshotRecovered(raftio.SnapshotInfo)       {}
func (noEvents) SnapshotCreated(raftio.SnapshotInfo)         {}
func (noEvents) SnapshotCompacted(raftio.SnapshotInfo)       {}
func (noEvents) LogCompacted(raftio.EntryInfo)               {}
func (noEvents) LogDBCompacted(raftio.EntryInfo)             {}

// serve answers the calls of other nodes.
func (k *clusterNode) serve() {
	k.port.Serve(methodStatus, func(context.Context, transport.Identity, []byte) ([]byte, error) {
		var e encoder
		e.uint(k.n.Image().Index)
		e.bool(slices.Contains(k.n.Voters(), k.n.replicaID()))
		return e.b, nil
	})
	k.port.Serve(methodJoin, func(ctx context.Context, peer transport.Identity, _ []byte) ([]byte, error) {
		if k.n.host.Load() == nil {
			return nil, ErrNotReady
		}
		return k.admitJoiner(ctx, peer)
	})
}

// statusOf asks a replica how far its image is, and whether it knows that it votes.
func (k *clusterNode) statusOf(ctx context.Context, replica uint64) (index uint64, votes bool, err error) {
	to, ok := k.resolve(replica)
	if !ok {
		return 0, false, fmt.Errorf("%w: %d", ErrNoReplica, replica)
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	b, err := k.port.Call(ctx, to, methodStatus, nil)
	if err != nil {
		return 0, false, err
	}
	d := decoder{b: b}
	index, votes = d.uint(), d.bool()
	return index, votes, d.finish()
}

// Voters lists the replicas that vote, as far as this one has applied: without asking anybody.
func (n *Node) Voters() []uint64 {
	host := n.host.Load()
	if host == nil {
		return nil
	}
	info := host.GetNodeHostInfo(dragonboat.NodeHostInfoOption{SkipLogInfo: true})
	if info == nil {
		return nil // closed meanwhile; the cluster port closes after it
	}
	for i := range info.ShardInfoList {
		if s := &info.ShardInfoList[i]; s.ShardID == shardID {
			return sortedIDs(s.Replicas)
		}
	}
	return nil
}

// admitJoiner gives an empty directory a replica id, adds it to the raft group without a vote, and tells it who is there.
func (k *clusterNode) admitJoiner(ctx context.Context, peer transport.Identity) ([]byte, error) {
	n := k.n
	r, err := n.Propose(ctx, AddReplica{NodeID: peer.NodeID, DirectoryID: UUID(peer.DirectoryID), Addr: peer.Addr})
	if err == nil {
		err = r.Err()
	}
	if err != nil {
		return nil, err
	}
	id := uint64(r.Value)
	if err := n.addNonVoting(ctx, id); err != nil {
		return nil, err
	}
	m, err := n.Latest(ctx)
	if err != nil {
		return nil, err
	}
	var e encoder
	e.uint(id)
	e.string(m.ClusterID)
	members := slices.DeleteFunc(m.sortedReplicas(), func(r *Replica) bool { return r.Removed || r.ID == id })
	list(&e, members, func(e *encoder, r **Replica) {
		addr := (*r).Addr
		if addr == "" {
			if to, ok := k.resolve((*r).ID); ok {
				addr = to.Addr
			} else if (*r).ID == n.replicaID() {
				addr = k.advertised()
			}
		}
		encodeReplica(e, *r)
		e.string(addr)
	})
	return e.b, nil
}

// join has an empty directory admitted by any of the peers.
func (k *clusterNode) join() error {
	n := k.n
	if len(k.c.Peers) == 0 {
		return fmt.Errorf("%w: --join needs the address of a member", ErrPeers)
	}
	deadline := now().Add(n.o.ReadyTimeout)
	var last error
	for i := 0; now().Before(deadline); i++ {
		p := k.c.Peers[i%len(k.c.Peers)]
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		b, err := k.port.Call(ctx, transport.Target{Addr: p.Addr, NodeID: p.NodeID}, methodJoin, nil)
		cancel()
		if err == nil {
			return k.joined(b)
		}
		last = err
		var said *transport.CallError
		if errors.As(err, &said) && !isPassing(said.Text) {
			return fmt.Errorf("%w: --join: %w", ErrReplaced, err)
		}
		if n.isClosing() {
			return ErrClosed
		}
		<-after(100 * time.Millisecond)
	}
	return fmt.Errorf("%w: no member let this node join within %v: %w", ErrNotReady, n.o.ReadyTimeout, last)
}

// isPassing tells refusals that are over in a moment from those that an operator must settle.
func isPassing(text string) bool {
	for _, c := range []error{DirectoryMismatch, LimitExceeded, InvalidCommand, UnsupportedLevel} {
		if len(text) >= len(c.Error()) && text[:len(c.Error())] == c.Error() {
			return false
		}
	}
	return true
}

func (k *clusterNode) joined(b []byte) error {
	d := decoder{b: b}
	id, cluster := d.uint(), d.string()
	type member struct {
		Replica
		addr string
	}
	members := unlist(&d, 19, func(d *decoder, m *member) {
		decodeReplica(d, &m.Replica)
		m.addr = d.string()
	})
	if err := d.finish(); err != nil || id == 0 {
		return fmt.Errorf("raft: answer to --join: %w", ErrDecode)
	}
	if err := k.book.setCluster(cluster); err != nil {
		return err
	}
	for i := range members {
		if err := k.book.noteAddr(members[i].ID, members[i].DirectoryID, members[i].addr); err != nil {
			return err
		}
	}
	k.n.replica.Store(id)
	return nil
}

// Members asks the quorum who is in the raft group.
func (n *Node) Members(ctx context.Context) (MemberList, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultTimeout)
		defer cancel()
	}
	for {
		attempt, cancel := n.readAttempt(ctx)
		m, err := n.host.Load().SyncGetShardMembership(attempt, shardID)
		cancel()
		switch {
		case n.isClosing():
			return MemberList{}, ErrClosed
		case err == nil:
			return MemberList{
				Voters: sortedIDs(m.Nodes), NonVoting: sortedIDs(m.NonVotings), Removed: sortedIDs(m.Removed), ChangeID: m.ConfigChangeID,
			}, nil
		case !n.readAgain(ctx, err):
			return MemberList{}, fmt.Errorf("%w: %w", ErrNotReady, err)
		}
		if err := n.pause(ctx, 5*time.Millisecond); err != nil {
			return MemberList{}, err
		}
	}
}

func (n *Node) pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrNotReady, ctx.Err())
	case <-n.closing:
		return ErrClosed
	case <-after(d):
		return nil
	}
}

// changeMembers repeats a membership change until the group has the shape that is wanted: a change whose answer was
// lost may have happened, and others may change something in between.
func (n *Node) changeMembers(ctx context.Context, done func(MemberList) (bool, error), change func(id uint64, timeout time.Duration) (*dragonboat.RequestState, error)) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 2*defaultTimeout)
		defer cancel()
	}
	for {
		m, err := n.Members(ctx)
		if err != nil {
			return err
		}
		ok, err := done(m)
		if err != nil {
			return err
		}
		if ok {
			n.sealMembership(ctx)
			return nil
		}
		rs, err := change(m.ChangeID, 2*time.Second)
		if err == nil {
			select {
			case <-rs.ResultC():
			case <-ctx.Done():
			case <-n.closing:
				return ErrClosed
			}
			rs.Release()
		}
		if err := n.pause(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// sealMembership puts a command behind a membership change and takes a snapshot that includes both: one that is taken
// right at the change may miss it.
func (n *Node) sealMembership(ctx context.Context) {
	if _, err := n.Propose(ctx, AlterConfigs{}); err != nil {
		return // it only delays the snapshot
	}
	n.snapshotting.Lock()
	defer n.snapshotting.Unlock()
	rs, err := n.host.Load().RequestSnapshot(shardID, dragonboat.SnapshotOption{}, 5*time.Second)
	if err != nil {
		n.o.Logger.Debug("no snapshot after a membership change", "err", err)
		return
	}
	defer rs.Release()
	select {
	case <-rs.ResultC():
	case <-ctx.Done():
	case <-n.closing:
	}
}

func (n *Node) addNonVoting(ctx context.Context, id uint64) error {
	done := func(m MemberList) (bool, error) {
		if slices.Contains(m.Removed, id) {
			return false, fmt.Errorf("%w: %d was removed", ErrNoReplica, id)
		}
		return slices.Contains(m.Voters, id) || slices.Contains(m.NonVoting, id), nil
	}
	return n.changeMembers(ctx, done, func(change uint64, timeout time.Duration) (*dragonboat.RequestState, error) {
		return n.host.Load().RequestAddNonVoting(shardID, id, replicaAddress(id), change, timeout)
	})
}

// Promote gives a non-voting replica that has caught up a vote. It returns once the replica itself knows: until then
// it counts for the quorum and would grant no vote.
func (n *Node) Promote(ctx context.Context, replica uint64) error {
	if n.cluster == nil {
		return ErrNoReplica
	}
	done := func(m MemberList) (bool, error) {
		switch {
		case slices.Contains(m.Voters, replica):
			return true, nil
		case !slices.Contains(m.NonVoting, replica):
			return false, fmt.Errorf("%w: %d", ErrNoReplica, replica)
		case len(m.Voters) >= MaxVoters:
			return false, ErrTooManyVoters
		}
		index := n.Image().Index
		if replica != n.replicaID() {
			theirs, _, err := n.cluster.statusOf(ctx, replica)
			if err != nil {
				return false, fmt.Errorf("%w: %w", ErrNotCaughtUp, err)
			}
			if theirs+catchUpEntries < index {
				return false, fmt.Errorf("%w: at %d of %d", ErrNotCaughtUp, theirs, index)
			}
		}
		return false, nil
	}
	err := n.changeMembers(ctx, done, func(change uint64, timeout time.Duration) (*dragonboat.RequestState, error) {
		return n.host.Load().RequestAddReplica(shardID, replica, replicaAddress(replica), change, timeout)
	})
	if err != nil {
		return err
	}
	for {
		votes := slices.Contains(n.Voters(), replica)
		if replica != n.replicaID() {
			_, votes, err = n.cluster.statusOf(ctx, replica)
		}
		if err == nil && votes {
			return nil
		}
		if err := n.pause(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("%w: it votes and does not know yet: %w", ErrNotCaughtUp, err)
		}
	}
}

// Remove takes a replica out of the raft group for good and bars its id. The voters that are left must be able to go
// on, unless force says that the operator knows better.
func (n *Node) Remove(ctx context.Context, replica uint64, force bool) error {
	if n.cluster == nil {
		return ErrNoReplica
	}
	done := func(m MemberList) (bool, error) {
		if !slices.Contains(m.Voters, replica) {
			return !slices.Contains(m.NonVoting, replica), nil
		}
		if force {
			return false, nil
		}
		up, left := 0, 0
		for _, id := range m.Voters {
			if id == replica {
				continue
			}
			left++
			if id == n.replicaID() {
				up++
			} else if _, _, err := n.cluster.statusOf(ctx, id); err == nil {
				up++
			}
		}
		if left == 0 || up < left/2+1 {
			return false, fmt.Errorf("%w: %d of %d", ErrQuorumAtRisk, up, left)
		}
		if l, ok := n.Leader(); ok && l.ReplicaID == replica {
			for _, id := range m.Voters { // a leader that is removed would leave the group without one for an election
				if id != replica {
					_ = n.host.Load().RequestLeaderTransfer(shardID, id)
					if err := n.pause(ctx, 200*time.Millisecond); err != nil {
						return false, err
					}
					break
				}
			}
		}
		return false, nil
	}
	err := n.changeMembers(ctx, done, func(change uint64, timeout time.Duration) (*dragonboat.RequestState, error) {
		return n.host.Load().RequestDeleteReplica(shardID, replica, change, timeout)
	})
	if err != nil {
		return err
	}
	r, err := n.Propose(ctx, RemoveReplica{ReplicaID: replica})
	if err == nil {
		err = r.Err()
	}
	return err
}

// Handover gives the leadership of the shard away, if this node has it, before a clean stop: the others need not wait
// for an election. It returns when another one leads or ctx ends; to stop then is still safe.
func (n *Node) Handover(ctx context.Context) error {
	for {
		l, ok := n.Leader()
		if ok && l.ReplicaID != n.replicaID() {
			return nil
		}
		if voters := n.Voters(); ok && n.cluster != nil {
			if len(voters) < 2 {
				return nil
			}
			reached := false
			for _, id := range voters {
				if id == n.replicaID() {
					continue
				}
				if _, _, err := n.cluster.statusOf(ctx, id); err != nil {
					continue
				}
				reached = true
				if err := n.host.Load().RequestLeaderTransfer(shardID, id); err == nil {
					break
				}
			}
			if !reached {
				return nil // nobody is there who could lead
			}
		} else if n.cluster == nil {
			return nil
		}
		if err := n.pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// QuorumReplica is one member of the raft group as DescribeQuorum shows it.
type QuorumReplica struct {
	ReplicaID uint64
	NodeID    int32
	Voter     bool
	// Index is how far its image is; 0 if it could not be reached.
	Index     uint64
	Reachable bool
}

// Quorum asks every member of the raft group how far it is.
func (n *Node) Quorum(ctx context.Context) ([]QuorumReplica, error) {
	m, err := n.Members(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]QuorumReplica, 0, len(m.Voters)+len(m.NonVoting))
	for i, id := range slices.Concat(m.Voters, m.NonVoting) {
		r := QuorumReplica{ReplicaID: id, NodeID: NoBroker, Voter: i < len(m.Voters)}
		if known := n.Image().Replicas[id]; known != nil {
			r.NodeID = known.NodeID
		}
		out = append(out, r)
	}
	n.probe(ctx, out)
	return out, nil
}

// Known is Quorum without asking who is in the raft group: as far as this node has applied. It needs no quorum.
func (n *Node) Known(ctx context.Context) []QuorumReplica {
	m, voters := n.Image(), n.Voters()
	var out []QuorumReplica
	for _, r := range m.sortedReplicas() {
		if !r.Removed {
			out = append(out, QuorumReplica{ReplicaID: r.ID, NodeID: r.NodeID, Voter: slices.Contains(voters, r.ID)})
		}
	}
	n.probe(ctx, out)
	return out
}

// probe asks members how far they are, all at once.
func (n *Node) probe(ctx context.Context, out []QuorumReplica) {
	var asking sync.WaitGroup
	for i := range out {
		r := &out[i]
		if r.ReplicaID == n.replicaID() {
			r.Index, r.Reachable = n.Image().Index, true
			continue
		}
		if n.cluster == nil {
			continue
		}
		asking.Go(func() {
			if index, _, err := n.cluster.statusOf(ctx, r.ReplicaID); err == nil {
				r.Index, r.Reachable = index, true
			}
		})
	}
	asking.Wait()
}

// TransferLeader asks the leader to hand over to a voter: before a clean stop, say. Nothing promises that it does.
func (n *Node) TransferLeader(replica uint64) error {
	return n.host.Load().RequestLeaderTransfer(shardID, replica)
}
