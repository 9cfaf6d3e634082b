package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
)

func newGroupCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "group", GroupID: groupClient, Short: "List, describe, rewind and delete consumer groups", RunE: needSubcommand}
	o := new(clientOptions).register(cmd)
	cmd.AddCommand(newGroupList(o), newGroupDescribe(o), newGroupReset(o), newGroupDelete(o))
	return cmd
}

func newGroupList(o *clientOptions) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List consumer groups", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.admin(cmd.Context(), func(ctx context.Context, admin *kadm.Client) error {
				groups, err := admin.ListGroups(ctx)
				if err != nil {
					return err
				}
				t := newTable("GROUP", "STATE", "PROTOCOL", "COORDINATOR")
				for _, g := range groups.Sorted() {
					t.row(g.Group, g.State, g.ProtocolType, g.Coordinator)
				}
				return t.write(cmd.OutOrStdout(), asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newGroupDescribe(o *clientOptions) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "describe GROUP...", Aliases: []string{"lag"}, Short: "Show committed offsets, lag and members", Args: atLeast(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			return o.admin(cmd.Context(), func(ctx context.Context, admin *kadm.Client) error {
				groups, err := admin.Lag(ctx, names...)
				if err != nil {
					return err
				}
				t := newTable("GROUP", "STATE", "TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "MEMBER", "CLIENT", "HOST")
				err = each(names, func(name string) error {
					g, ok := groups[name]
					if !ok {
						return errors.New("no answer for it")
					}
					if err := g.Error(); err != nil {
						return err
					}
					lags := g.Lag.Sorted()
					for _, l := range lags {
						var member, client, host, committed, lag any
						if l.Member != nil {
							member, client, host = l.Member.MemberID, l.Member.ClientID, l.Member.ClientHost
						}
						if l.Commit.At >= 0 {
							committed = l.Commit.At
						}
						if l.Lag >= 0 {
							lag = l.Lag
						}
						t.row(name, g.State, l.Topic, l.Partition, committed, l.End.Offset, lag, member, client, host)
					}
					if len(lags) == 0 {
						t.row(name, g.State, nil, nil, nil, nil, nil, nil, nil, nil)
					}
					return nil
				})
				return errors.Join(t.write(cmd.OutOrStdout(), asJSON), err)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newGroupReset(o *clientOptions) *cobra.Command {
	var to string
	var topics []string
	var execute bool
	cmd := &cobra.Command{
		Use: "reset-offsets GROUP", Short: "Move a group's committed offsets (the group must have no members)", Args: exactly(1),
		Long: `Move the committed offsets of a group that has no members. Without --execute it only shows what it would do.

--to takes: start, end, an offset, +N or -N from where the group is, or a time (2026-01-31T12:00:00Z, or 15m for
a quarter of an hour ago).`,
		RunE: func(cmd *cobra.Command, args []string) error {
			group := args[0]
			return o.admin(cmd.Context(), func(ctx context.Context, admin *kadm.Client) error {
				moves, err := planReset(ctx, admin, group, topics, to, time.Now())
				if err != nil {
					return err
				}
				if execute {
					if err := admin.CommitAllOffsets(ctx, group, moves.offsets); err != nil {
						return fmt.Errorf("%s: %w (a group with members cannot be moved)", group, err)
					}
				}
				if err := moves.table.write(cmd.OutOrStdout(), false); err != nil {
					return err
				}
				if !execute {
					fmt.Fprintln(cmd.ErrOrStderr(), "nothing was changed: add --execute to do it")
				}
				return nil
			})
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "where to: start, end, an offset, +N, -N, a time or an age")
	cmd.Flags().StringSliceVar(&topics, "topic", nil, "topics (default: all that the group has committed)")
	cmd.Flags().BoolVar(&execute, "execute", false, "do it")
	_ = cmd.MarkFlagRequired("to") // fails only if there is no such flag
	return cmd
}

// resetPlan is what a reset would commit.
type resetPlan struct {
	offsets kadm.Offsets
	table   *table
}

// planReset works out the new offsets. Each is kept between the partition's start and end.
func planReset(ctx context.Context, admin *kadm.Client, group string, topics []string, to string, now time.Time) (resetPlan, error) {
	committed, err := admin.FetchOffsets(ctx, group)
	if err != nil {
		return resetPlan{}, fmt.Errorf("%s: %w", group, err)
	}
	if len(topics) == 0 {
		topics = sortedNames(committed)
	}
	if len(topics) == 0 {
		return resetPlan{}, fmt.Errorf("%s has committed nothing: say which topics with --topic", group)
	}
	starts, err := admin.ListStartOffsets(ctx, topics...)
	if err != nil {
		return resetPlan{}, err
	}
	ends, err := admin.ListEndOffsets(ctx, topics...)
	if err != nil {
		return resetPlan{}, err
	}
	target, err := parseReset(to, now)
	if err != nil {
		return resetPlan{}, err
	}
	var byTime kadm.ListedOffsets
	if !target.time.IsZero() {
		if byTime, err = admin.ListOffsetsAfterMilli(ctx, target.time.UnixMilli(), topics...); err != nil {
			return resetPlan{}, err
		}
	}
	plan := resetPlan{offsets: kadm.Offsets{}, table: newTable("TOPIC", "PARTITION", "FROM", "TO")}
	for _, topic := range topics {
		if len(ends[topic]) == 0 {
			return resetPlan{}, fmt.Errorf("%s: no such topic", topic)
		}
		for p := int32(0); int(p) < len(ends[topic]); p++ {
			start, end := starts[topic][p], ends[topic][p]
			if err := errors.Join(start.Err, end.Err); err != nil {
				return resetPlan{}, fmt.Errorf("%s:%d: %w", topic, p, err)
			}
			var from any
			current := start.Offset
			if c, ok := committed.Lookup(topic, p); ok && c.At >= 0 {
				from, current = c.At, c.At
			}
			at := target.offset(start.Offset, end.Offset, current)
			if !target.time.IsZero() {
				at = byTime[topic][p].Offset
			}
			at = min(max(at, start.Offset), end.Offset)
			plan.offsets.AddOffset(topic, p, at, -1)
			plan.table.row(topic, p, from, at)
		}
	}
	return plan, nil
}

// resetTarget says where a reset goes: to a time, or by offset.
type resetTarget struct {
	time   time.Time
	offset func(start, end, current int64) int64
}

func parseReset(to string, now time.Time) (resetTarget, error) {
	switch to {
	case "start", "earliest":
		return resetTarget{offset: func(start, _, _ int64) int64 { return start }}, nil
	case "end", "latest":
		return resetTarget{offset: func(_, end, _ int64) int64 { return end }}, nil
	}
	if n, err := strconv.ParseInt(to, 10, 64); err == nil {
		if strings.HasPrefix(to, "+") || strings.HasPrefix(to, "-") {
			return resetTarget{offset: func(_, _, current int64) int64 { return current + n }}, nil
		}
		return resetTarget{offset: func(_, _, _ int64) int64 { return n }}, nil
	}
	none := func(start, _, _ int64) int64 { return start }
	if age, err := time.ParseDuration(to); err == nil && age > 0 {
		return resetTarget{time: now.Add(-age), offset: none}, nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", time.DateOnly} {
		if t, err := time.Parse(layout, to); err == nil {
			return resetTarget{time: t, offset: none}, nil
		}
	}
	return resetTarget{}, usagef("--to %s: use start, end, an offset, +N, -N, a time like 2026-01-31T12:00:00Z or an age like 15m", to)
}

func newGroupDelete(o *clientOptions) *cobra.Command {
	return &cobra.Command{
		Use: "delete GROUP...", Aliases: []string{"rm"}, Short: "Delete groups that have no members", Args: atLeast(1),
		RunE: func(cmd *cobra.Command, names []string) error {
			return o.admin(cmd.Context(), func(ctx context.Context, admin *kadm.Client) error {
				deleted, err := admin.DeleteGroups(ctx, names...)
				if err != nil {
					return err
				}
				return each(names, func(name string) error {
					err := deleted[name].Err
					if err == nil {
						fmt.Fprintf(cmd.OutOrStdout(), "deleted %s\n", name)
					}
					return err
				})
			})
		},
	}
}
