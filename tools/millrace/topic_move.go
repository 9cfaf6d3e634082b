package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

func newTopicReassign(o *clientOptions) *cobra.Command {
	var replicas string
	var cancel, asJSON bool
	cmd := &cobra.Command{
		Use: "reassign TOPIC", Short: "Move the replicas of partitions to other nodes", Args: exactly(1),
		Long: `Move the replicas of partitions to other nodes. The first node of each list is the preferred leader. The command starts
the move; without --replicas it shows the moves that are under way, and --cancel ends them where they are.`,
		Example: `  millrace topic reassign orders --replicas "0:1,2,3;1:2,3,1"
  millrace topic reassign orders`,
		RunE: func(cmd *cobra.Command, args []string) error {
			topic := args[0]
			if cancel && replicas != "" {
				return usagef("--cancel and --replicas contradict each other")
			}
			wanted, err := parseReplicas(replicas)
			if err != nil {
				return err
			}
			return o.admin(cmd.Context(), func(ctx context.Context, admin *kadm.Client) error {
				moving, err := reassignments(ctx, admin, topic)
				if err != nil {
					return err
				}
				switch {
				case cancel:
					if len(moving) == 0 {
						return fmt.Errorf("%s: nothing is under way", topic)
					}
					wanted = map[int32][]int32{}
					for _, m := range moving {
						wanted[m.Partition] = nil
					}
				case replicas == "":
					t := newTable("TOPIC", "PARTITION", "REPLICAS", "ADDING", "REMOVING")
					for _, m := range moving {
						t.row(m.Topic, m.Partition, m.Replicas, m.AddingReplicas, m.RemovingReplicas)
					}
					if len(t.rows) == 0 && !asJSON {
						fmt.Fprintln(cmd.ErrOrStderr(), "nothing is under way")
						return nil
					}
					return t.write(cmd.OutOrStdout(), asJSON)
				}
				var req kadm.AlterPartitionAssignmentsReq
				for p, nodes := range wanted {
					req.Assign(topic, p, nodes)
				}
				done, err := admin.AlterPartitionAssignments(ctx, req)
				if err != nil {
					return err
				}
				return partitionErrors(done.Sorted(), func(r kadm.AlterPartitionAssignmentsResponse) (string, int32, error) {
					return r.Topic, r.Partition, explain(r.Err, r.ErrMessage)
				})
			})
		},
	}
	cmd.Flags().StringVar(&replicas, "replicas", "", "nodes of each partition, the preferred leader first: \"0:1,2,3;1:2,3,1\"")
	cmd.Flags().BoolVar(&cancel, "cancel", false, "end the moves of this topic that are under way")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// parseReplicas reads "0:1,2,3;1:2,3,1": the nodes of each partition.
func parseReplicas(text string) (map[int32][]int32, error) {
	wanted := map[int32][]int32{}
	for part := range strings.SplitSeq(text, ";") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		number, list, ok := strings.Cut(part, ":")
		partition, err := strconv.ParseInt(strings.TrimSpace(number), 10, 32)
		if !ok || err != nil || partition < 0 {
			return nil, usagef("--replicas: %q is not of the form PARTITION:NODE,NODE", part)
		}
		if wanted[int32(partition)] != nil {
			return nil, usagef("--replicas names partition %d twice", partition)
		}
		for node := range strings.SplitSeq(list, ",") {
			id, err := strconv.ParseInt(strings.TrimSpace(node), 10, 32)
			if err != nil || id < 0 {
				return nil, usagef("--replicas: %q of partition %d is no node", node, partition)
			}
			if slices.Contains(wanted[int32(partition)], int32(id)) {
				return nil, usagef("--replicas names node %d twice for partition %d", id, partition)
			}
			wanted[int32(partition)] = append(wanted[int32(partition)], int32(id))
		}
	}
	if text != "" && len(wanted) == 0 {
		return nil, usagef("--replicas names no partition")
	}
	return wanted, nil
}

// reassignments are the moves of a topic that are under way.
func reassignments(ctx context.Context, admin *kadm.Client, topic string) ([]kadm.ListPartitionReassignmentsResponse, error) {
	details, err := admin.ListTopics(ctx, topic)
	if err != nil {
		return nil, err
	}
	if err := details[topic].Err; err != nil {
		return nil, fmt.Errorf("%s: %w", topic, err)
	}
	set := kadm.TopicsSet{}
	set.Add(topic, details[topic].Partitions.Numbers()...)
	moving, err := admin.ListPartitionReassignments(ctx, set)
	return moving.Sorted(), err
}

func newTopicElectLeader(o *clientOptions) *cobra.Command {
	var unclean bool
	var partitions []int32
	cmd := &cobra.Command{
		Use: "elect-leader TOPIC", Short: "Give partitions their preferred leader, or any at all", Args: exactly(1),
		Long: `Give the partitions of a topic their preferred leader, the first of their replicas, if it is in sync.

--unclean elects a leader for partitions that have none and no replica that is known to hold everything: what only the
missing ones hold is LOST, also if it was acknowledged. Bring one of those back if you can.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			topic, how := args[0], kadm.ElectPreferredReplica
			if unclean {
				how = kadm.ElectLiveReplica
			}
			return o.admin(cmd.Context(), func(ctx context.Context, admin *kadm.Client) error {
				details, err := admin.ListTopics(ctx, topic)
				if err != nil {
					return err
				}
				if err := details[topic].Err; err != nil {
					return fmt.Errorf("%s: %w", topic, err)
				}
				if len(partitions) == 0 {
					partitions = details[topic].Partitions.Numbers()
				}
				set := kadm.TopicsSet{}
				set.Add(topic, partitions...)
				done, err := admin.ElectLeaders(ctx, how, set)
				if err != nil {
					return err
				}
				var results []kadm.ElectLeadersResult
				for _, p := range slices.Sorted(slices.Values(partitions)) {
					if r, ok := done[topic][p]; ok {
						results = append(results, r)
					}
				}
				return partitionErrors(results, func(r kadm.ElectLeadersResult) (string, int32, error) {
					if errors.Is(r.Err, kerr.ElectionNotNeeded) {
						return "", 0, nil // it is as it should be
					}
					return r.Topic, r.Partition, explain(r.Err, r.ErrMessage)
				})
			})
		},
	}
	cmd.Flags().BoolVar(&unclean, "unclean", false, "elect whatever replica lives; acknowledged records may be lost")
	cmd.Flags().Int32SliceVar(&partitions, "partitions", nil, "only these, separated by commas")
	return cmd
}

// partitionErrors joins what went wrong, each with its partition.
func partitionErrors[R any](results []R, read func(R) (string, int32, error)) error {
	var all []error
	for _, r := range results {
		if topic, partition, err := read(r); err != nil {
			all = append(all, fmt.Errorf("%s:%d: %w", topic, partition, err))
		}
	}
	return errors.Join(all...)
}
