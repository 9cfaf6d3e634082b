package main

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"millrace/broker"
	"millrace/raft"
	"millrace/tools/millrace/admin"
)

func newClusterCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "cluster", GroupID: groupCluster, Short: "Show and change the nodes of a cluster", RunE: needSubcommand,
		Long: `Show and change the nodes of a cluster. Any node can be asked: the answer comes from a quorum.`,
	}
	c := new(clusterClient).register(cmd)
	cmd.AddCommand(newClusterStatus(c), newClusterAdd(c), newClusterRemove(c), newClusterDrain(c), newClusterBalance(c),
		newClusterSetRF(c), newClusterFinalize(c))
	return cmd
}

func newClusterStatus(c *clusterClient) *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use: "status", Short: "Show nodes, controller, partitions", Args: noArgs,
		Long: `Show the nodes of a cluster, who is the controller, and how the partitions are.

STATE: live, fenced (silent, starting, or its disk failed: it leads nothing), stopping, absent (never registered), and draining.
ROLE: voters agree on the metadata, the others follow it; a removed node is in it no more and its replicas are still to be
moved. HEARD is the age of the last heartbeat that the answering node
(marked with *) received.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := c.status(cmd.Context())
			if err != nil {
				return err
			}
			if c.asJSON {
				err = writeJSON(cmd.OutOrStdout(), s)
			} else {
				err = writeStatus(cmd.OutOrStdout(), &s)
			}
			if wrong := troubles(&s); err == nil && check && len(wrong) > 0 {
				err = fmt.Errorf("the cluster is not well: %s", wrong[0])
			}
			return err
		},
	}
	c.json(cmd)
	cmd.Flags().BoolVar(&check, "check", false, "exit with 1 if a node or a partition is not as it should be")
	return cmd
}

func writeStatus(w io.Writer, s *broker.ClusterStatus) error {
	controller := "no controller"
	if s.Controller >= 0 {
		controller = fmt.Sprintf("controller: node %d (epoch %d)", s.Controller, s.ControllerEpoch)
	}
	fmt.Fprintf(w, "cluster %s, level %d, %s\n", s.ClusterID, s.Level, controller)
	p := s.Partitions
	fmt.Fprintf(w, "%d partitions: %d without a leader, %d below min.insync.replicas, %d not fully in sync, %d moving\n\n",
		p.Total, p.Offline, p.UnderMinISR, p.UnderReplicated, p.Moving)
	t := newTable("NODE", "STATE", "ROLE", "ADDRESS", "CLUSTER PORT", "RACK", "LEADS", "IN SYNC", "REPLICAS", "HEARD", "METADATA")
	for _, n := range s.Nodes {
		id, state, role := strconv.Itoa(int(n.ID)), string(n.State), "follows"
		if n.ID == s.AnsweredBy {
			id += "*"
		}
		if n.Draining {
			state += ", draining"
		}
		switch {
		case n.Voter:
			role = "voter"
		case n.ReplicaID == 0:
			role = "removed"
		}
		var heard, metadata any = "-", n.MetadataIndex
		if n.Heard >= 0 {
			heard = n.Heard.Duration().Round(100 * time.Millisecond)
		}
		switch {
		case n.ReplicaID == 0:
			metadata = nil
		case !n.Reachable:
			metadata = "unreachable"
		}
		t.row(id, state, role, n.Address, n.ClusterAddr, n.Rack, n.Leads, n.InSync, n.Replicas, heard, metadata)
	}
	if err := t.write(w, false); err != nil {
		return err
	}
	for _, wrong := range troubles(s) {
		fmt.Fprintf(w, "! %s\n", wrong)
	}
	if s.LevelPossible > s.Level {
		fmt.Fprintf(w, "all nodes know level %d: millrace cluster finalize puts it in force; older versions cannot come back then\n", s.LevelPossible)
	}
	return nil
}

// troubles are the things that an operator should look at, the worst first.
func troubles(s *broker.ClusterStatus) (wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if n := s.Partitions.Offline; n > 0 {
		say("%d partition(s) without a leader cannot be read or written: bring back the nodes that hold them", n)
	}
	if n := s.Partitions.UnderMinISR; n > 0 {
		say("%d partition(s) refuse acks=all: fewer replicas are in sync than min.insync.replicas wants", n)
	}
	if s.Controller < 0 {
		say("there is no controller: nothing can be created, elected or moved")
	}
	if all, up := s.Voters(); up < all {
		say("%d of %d voters can be reached; the metadata needs %d", up, all, all/2+1)
	}
	for _, n := range s.Nodes {
		if n.State == broker.NodeFenced {
			say("node %d is fenced", n.ID)
		}
	}
	if n := s.Partitions.UnderReplicated; n > 0 {
		say("%d partition(s) have fewer replicas in sync than they should", n)
	}
	return wrong
}

func newClusterAdd(c *clusterClient) *cobra.Command {
	cmd := &cobra.Command{
		Use: "add NODE", Short: "Give a node that has joined a vote", Args: exactly(1),
		Long: fmt.Sprintf(`Give a node that has joined (millrace raft-cluster --join) a vote on the metadata. A node without one holds and leads
partitions like any other; votes say how many nodes may fail before nothing can be decided: one of three, two of five. At
most %d vote.`, raft.MaxVoters),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := nodeArgument(args[0])
			if err != nil {
				return err
			}
			s, err := c.status(cmd.Context())
			if err != nil {
				return err
			}
			n, known := s.Node(id)
			voters, _ := s.Voters()
			switch {
			case !known:
				return fmt.Errorf("node %d is unknown here: start it first, with an empty data directory, then run this again:\n%s", id, joinCommand(&s, id))
			case n.Voter:
				return c.done(cmd, outcome{Node: &id}, "node %d has a vote already", id)
			case voters >= raft.MaxVoters:
				return fmt.Errorf("%d nodes vote already, and more than %d would only slow decisions down: node %d serves without a vote; cluster remove makes room", voters, raft.MaxVoters, id)
			}
			if err := c.post(cmd.Context(), "promote", admin.NodeRequest{Node: &id}, nil); err != nil {
				return err
			}
			if voters++; voters%2 == 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "%d voters stand no more failures than %d: add another one\n", voters, voters-1)
			}
			return c.done(cmd, outcome{Node: &id}, "node %d votes now, one of %d", id, voters)
		},
	}
	c.json(cmd)
	return cmd
}

// joinCommand is how a node is started that the cluster s does not know.
func joinCommand(s *broker.ClusterStatus, id int32) string {
	peers := ""
	for _, n := range s.Nodes {
		if n.ClusterAddr == "" || n.ID == id {
			continue
		}
		if peers != "" {
			peers += ","
		}
		peers += fmt.Sprintf("%d@%s", n.ID, n.ClusterAddr)
	}
	return fmt.Sprintf("  millrace --node-id %d raft-cluster --raft-addr HOST:PORT --peers %q --join", id, peers)
}

func newClusterRemove(c *clusterClient) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "remove NODE", Short: "Take a drained or dead node out of the cluster for good", Args: exactly(1),
		Long: `Take a node out of the cluster for good: drain it first, also if it is dead, so that others hold what it held. Its data
directory is never let in again; a new one may join under the same number.

--force takes the vote of a node that still holds replicas, and drains it; run the command again when that is done. It also
removes a voter when those that are left may not be enough.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := nodeArgument(args[0])
			if err != nil {
				return err
			}
			s, err := c.status(cmd.Context())
			if err != nil {
				return err
			}
			n, known := s.Node(id)
			switch {
			case !known:
				return fmt.Errorf("node %d is unknown here", id)
			case n.Replicas > 0 && !force:
				return fmt.Errorf("node %d still holds %d replica(s) and leads %d: millrace cluster drain %d gives them to others, then run this again", id, n.Replicas, n.Leads, id)
			case n.State == broker.NodeLive && !n.Draining && !force:
				return fmt.Errorf("node %d is live and would be given new partitions meanwhile: millrace cluster drain %d first", id, id)
			}
			if err := c.post(cmd.Context(), "remove", admin.RemoveRequest{Node: &id, Force: force}, nil); err != nil {
				return err
			}
			if n.Replicas > 0 {
				return c.done(cmd, outcome{Node: &id, Pending: true}, "node %d is out of the metadata's quorum and is being drained: once it holds nothing (millrace cluster status), "+
					"run millrace cluster remove %d again. Or put a new node in its place: start it under the same number with --join and an empty "+
					"data directory, then millrace cluster drain %d --undo and millrace cluster add %d", id, id, id, id)
			}
			return c.done(cmd, outcome{Node: &id}, "node %d is out; if its process still runs it ends by itself. Its data directory is not let in again: delete it before the node joins anew", id)
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "also if it holds replicas, or if the voters that are left may not be enough")
	c.json(cmd)
	return cmd
}

func newClusterDrain(c *clusterClient) *cobra.Command {
	var undo bool
	cmd := &cobra.Command{
		Use: "drain NODE", Short: "Move everything away from a node: leaderships first, then replicas", Args: exactly(1),
		Long: `Move everything away from a node, so that it can be removed: it gets no new partition, leads none, and its replicas are
copied to other nodes. The command waits until the node holds nothing; Ctrl-C ends the waiting, not the drain. For a restart
no drain is needed: a clean stop hands the leaderships over by itself.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := nodeArgument(args[0])
			if err != nil {
				return err
			}
			if err := c.post(cmd.Context(), "drain", admin.DrainRequest{Node: &id, Undo: undo}, nil); err != nil {
				return err
			}
			switch {
			case undo:
				return c.done(cmd, outcome{Node: &id}, "node %d takes partitions again; what has moved stays where it is: millrace cluster balance evens out", id)
			case c.noWait:
				return c.done(cmd, outcome{Node: &id, Pending: true}, "node %d is being drained", id)
			}
			hint := fmt.Sprintf("nothing has moved for a while: are there enough other nodes, live and not draining, for the replication factor? "+
				"Add a node, or lower it with millrace cluster set-rf; millrace cluster drain %d --undo takes the drain back", id)
			_, err = c.wait(cmd.Context(), cmd.ErrOrStderr(), hint, func(s broker.ClusterStatus) (progress, error) {
				n, known := s.Node(id)
				switch {
				case !known:
					return progress{}, fmt.Errorf("node %d has left the cluster", id)
				case !n.Draining:
					return progress{}, fmt.Errorf("the drain of node %d was taken back", id)
				}
				return progress{fmt.Sprintf("node %d leads %d partition(s), holds %d replica(s)", id, n.Leads, n.Replicas), n.Leads == 0 && n.Replicas == 0}, nil
			})
			if err != nil {
				return err
			}
			return c.done(cmd, outcome{Node: &id}, "node %d holds nothing any more: it can be stopped and removed (millrace cluster remove %d)", id, id)
		},
	}
	cmd.Flags().BoolVar(&undo, "undo", false, "let the node take partitions again")
	c.waiting(cmd)
	return cmd
}

func newClusterBalance(c *clusterClient) *cobra.Command {
	cmd := &cobra.Command{
		Use: "balance", Short: "Even out what the nodes hold", Args: noArgs,
		Long: `Even out what the nodes hold and lead, with few moves: after a node was added, say. Leaderships come back to preferred
leaders by themselves. The command waits until nothing moves; Ctrl-C ends the waiting, not the moves.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var started admin.BalanceAnswer
			if err := c.post(cmd.Context(), "balance", struct{}{}, &started); err != nil {
				return err
			}
			if started.Moves == 0 {
				return c.done(cmd, outcome{}, "there is nothing to move")
			}
			return c.moves(cmd, outcome{Moves: started.Moves}, fmt.Sprintf("%d move(s)", started.Moves))
		},
	}
	c.waiting(cmd)
	return cmd
}

func newClusterSetRF(c *clusterClient) *cobra.Command {
	cmd := &cobra.Command{
		Use: "set-rf FACTOR [TOPIC...]", Short: "Give topics another number of replicas", Args: atLeast(1),
		Long: `Give topics another number of replicas; without topics all of them, the internal ones included: so the topics of a broker
that began alone get their copies. From three replicas up, and unless somebody has said otherwise, acks=all needs two in sync
from then on (min.insync.replicas). The command waits until nothing moves.`,
		Example: `  millrace cluster set-rf 3
  millrace cluster set-rf 3 orders payments --no-wait`,
		RunE: func(cmd *cobra.Command, args []string) error {
			rf, err := strconv.ParseInt(args[0], 10, 16)
			if err != nil || rf < 1 {
				return usagef("%q is no replication factor: write a number from 1", args[0])
			}
			s, err := c.status(cmd.Context())
			if err != nil {
				return err
			}
			if int(rf) > len(s.Nodes) {
				return fmt.Errorf("replication factor %d needs as many nodes, there are %d", rf, len(s.Nodes))
			}
			if err := c.post(cmd.Context(), "set-rf", admin.ReplicationRequest{Topics: args[1:], ReplicationFactor: int(rf)}, nil); err != nil {
				return err
			}
			return c.moves(cmd, outcome{}, fmt.Sprintf("replication factor %d", rf))
		},
	}
	c.waiting(cmd)
	return cmd
}

// moves waits until no partition is being moved, unless nobody wants to.
func (c *clusterClient) moves(cmd *cobra.Command, o outcome, what string) error {
	if c.noWait {
		o.Pending = true
		return c.done(cmd, o, "%s: started", what)
	}
	hint := "nothing has moved for a while: is every node live? See millrace cluster status"
	_, err := c.wait(cmd.Context(), cmd.ErrOrStderr(), hint, func(s broker.ClusterStatus) (progress, error) {
		return progress{fmt.Sprintf("%d partition(s) moving", s.Partitions.Moving), s.Partitions.Moving == 0}, nil
	})
	if err != nil {
		return err
	}
	return c.done(cmd, o, "%s: done", what)
}

func newClusterFinalize(c *clusterClient) *cobra.Command {
	cmd := &cobra.Command{
		Use: "finalize [LEVEL]", Short: "Put the metadata level of new versions in force, after a rolling upgrade", Args: atMost(1),
		Long: `Put a higher level of the metadata in force, the highest that all nodes know if none is given. Do it when every node runs
the new version and you are sure of it: afterwards older versions cannot come back.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := c.status(cmd.Context())
			if err != nil {
				return err
			}
			level := s.LevelPossible
			if len(args) == 1 {
				if level, err = strconv.Atoi(args[0]); err != nil || level < 1 {
					return usagef("%q is no level: write a number from 1", args[0])
				}
			}
			switch {
			case level == s.Level:
				return c.done(cmd, outcome{Level: level}, "level %d is in force already", level)
			case level > s.LevelPossible:
				return fmt.Errorf("level %d is more than every node knows (%d): upgrade the others first%s", level, s.LevelPossible, behind(&s, level))
			}
			if err := c.post(cmd.Context(), "finalize", admin.FinalizeRequest{Level: level}, nil); err != nil {
				return err
			}
			return c.done(cmd, outcome{Level: level}, "level %d is in force, after %d", level, s.Level)
		},
	}
	c.json(cmd)
	return cmd
}

// behind names the nodes that do not know a level.
func behind(s *broker.ClusterStatus, level int) (text string) {
	for _, n := range s.Nodes {
		if n.MaxLevel < level {
			text += fmt.Sprintf("; node %d knows %d", n.ID, n.MaxLevel)
		}
	}
	return text
}

// outcome is what a change prints as JSON.
type outcome struct {
	Node    *int32 `json:"node,omitempty"`
	Moves   int    `json:"moves,omitempty"`
	Level   int    `json:"level,omitempty"`
	Pending bool   `json:"pending"` // started, not waited for
	Text    string `json:"text"`
}

// done prints what became of a change.
func (c *clusterClient) done(cmd *cobra.Command, o outcome, format string, args ...any) error {
	o.Text = fmt.Sprintf(format, args...)
	if c.asJSON {
		return writeJSON(cmd.OutOrStdout(), o)
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), o.Text)
	return err
}

func nodeArgument(text string) (int32, error) {
	id, err := strconv.ParseInt(text, 10, 32)
	if err != nil || id < 0 {
		return 0, usagef("%q is no node: write its number", text)
	}
	return int32(id), nil
}

// atMost takes up to n arguments.
func atMost(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > n {
			return usagef("%s takes at most %d argument(s), got %d; usage: %s", cmd.CommandPath(), n, len(args), cmd.UseLine())
		}
		return nil
	}
}
