package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

func newTopicCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "topic", GroupID: groupClient, Short: "Create, list, describe, grow, trim, move and delete topics", RunE: needSubcommand}
	o := new(clientOptions).register(cmd)
	cmd.AddCommand(newTopicCreate(o), newTopicList(o), newTopicDescribe(o), newTopicAddPartitions(o), newTopicTrim(o),
		newTopicReassign(o), newTopicElectLeader(o), newTopicDelete(o))
	return cmd
}

func newTopicCreate(o *clientOptions) *cobra.Command {
	var partitions int32
	var replicas int16
	var settings []string
	var ifNotExists bool
	cmd := &cobra.Command{
		Use: "create TOPIC...", Short: "Create topics", Args: atLeast(1),
		RunE: func(cmd *cobra.Command, topics []string) error {
			configs := map[string]*string{}
			for _, s := range settings {
				key, value, ok := strings.Cut(s, "=")
				if !ok {
					return usagef("--set %s: write key=value", s)
				}
				configs[key] = &value
			}
			return o.admin(cmd.Context(), func(ctx context.Context, admin *kadm.Client) error {
				created, err := admin.CreateTopics(ctx, partitions, replicas, configs, topics...)
				if err != nil {
					return err
				}
				return each(topics, func(topic string) error {
					err := explain(created[topic].Err, created[topic].ErrMessage)
					if ifNotExists && errors.Is(err, kerr.TopicAlreadyExists) {
						return nil
					}
					if err == nil {
						fmt.Fprintf(cmd.OutOrStdout(), "created %s\n", topic)
					}
					return err
				})
			})
		},
	}
	cmd.Flags().Int32VarP(&partitions, "partitions", "p", -1, "number of partitions (-1: the broker's default)")
	cmd.Flags().Int16VarP(&replicas, "replication-factor", "r", -1, "number of replicas (-1: the broker's default)")
	cmd.Flags().StringArrayVar(&settings, "set", nil, "topic setting `key=value`; may be repeated")
	cmd.Flags().BoolVar(&ifNotExists, "if-not-exists", false, "an existing topic is no error")
	return cmd
}

func newTopicList(o *clientOptions) *cobra.Command {
	var internal, asJSON bool
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List topics", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.admin(cmd.Context(), func(ctx context.Context, admin *kadm.Client) error {
				topics, err := admin.ListTopicsWithInternal(ctx)
				if err != nil {
					return err
				}
				t := newTable("TOPIC", "PARTITIONS", "REPLICAS")
				for _, d := range topics.Sorted() {
					if d.IsInternal && !internal {
						continue
					}
					t.row(d.Topic, len(d.Partitions), d.Partitions.NumReplicas())
				}
				return t.write(cmd.OutOrStdout(), asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&internal, "internal", false, "also the broker's own topics")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newTopicAddPartitions(o *clientOptions) *cobra.Command {
	var total int
	cmd := &cobra.Command{
		Use: "add-partitions TOPIC...", Short: "Raise the number of partitions", Args: atLeast(1),
		RunE: func(cmd *cobra.Command, topics []string) error {
			if total <= 0 {
				return usagef("say how many there should be: --partitions N")
			}
			return o.admin(cmd.Context(), func(ctx context.Context, admin *kadm.Client) error {
				done, err := admin.UpdatePartitions(ctx, total, topics...)
				if err != nil {
					return err
				}
				return each(topics, func(topic string) error { return explain(done[topic].Err, done[topic].ErrMessage) })
			})
		},
	}
	cmd.Flags().IntVarP(&total, "partitions", "p", 0, "number of partitions afterwards")
	return cmd
}

func newTopicTrim(o *clientOptions) *cobra.Command {
	var before string
	cmd := &cobra.Command{
		Use: "trim TOPIC[:PARTITION]...", Short: "Delete the records before an offset (DeleteRecords)", Args: atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.admin(cmd.Context(), func(ctx context.Context, admin *kadm.Client) error {
				offsets := kadm.Offsets{}
				for _, arg := range args {
					topic, partition, one := strings.Cut(arg, ":")
					ends, err := admin.ListEndOffsets(ctx, topic)
					if err != nil {
						return err
					}
					for p, end := range ends[topic] {
						if one && strconv.Itoa(int(p)) != partition {
							continue
						}
						if end.Err != nil {
							return fmt.Errorf("%s:%d: %w", topic, p, end.Err)
						}
						at := end.Offset
						if before != "end" {
							if at, err = strconv.ParseInt(before, 10, 64); err != nil {
								return usagef("--before %s: write an offset or end", before)
							}
						}
						offsets.AddOffset(topic, p, at, -1)
					}
					if len(offsets[topic]) == 0 {
						return fmt.Errorf("%s: %w", arg, kerr.UnknownTopicOrPartition)
					}
				}
				done, err := admin.DeleteRecords(ctx, offsets)
				if err != nil {
					return err
				}
				t := newTable("TOPIC", "PARTITION", "START", "ERROR")
				for _, r := range done.Sorted() {
					t.row(r.Topic, r.Partition, r.LowWatermark, errorCell(r.Err))
				}
				return errors.Join(t.write(cmd.OutOrStdout(), false), done.Error())
			})
		},
	}
	cmd.Flags().StringVar(&before, "before", "", "delete what stands before this offset; end: everything")
	_ = cmd.MarkFlagRequired("before") // fails only if there is no such flag
	return cmd
}

func newTopicDelete(o *clientOptions) *cobra.Command {
	return &cobra.Command{
		Use: "delete TOPIC...", Aliases: []string{"rm"}, Short: "Delete topics and their data", Args: atLeast(1),
		RunE: func(cmd *cobra.Command, topics []string) error {
			return o.admin(cmd.Context(), func(ctx context.Context, admin *kadm.Client) error {
				deleted, err := admin.DeleteTopics(ctx, topics...)
				if err != nil {
					return err
				}
				return each(topics, func(topic string) error {
					err := explain(deleted[topic].Err, deleted[topic].ErrMessage)
					if err == nil {
						fmt.Fprintf(cmd.OutOrStdout(), "deleted %s\n", topic)
					}
					return err
				})
			})
		},
	}
}

// each calls f for every name and joins the errors, each with its name.
func each(names []string, f func(string) error) error {
	var all []error
	for _, name := range names {
		if err := f(name); err != nil {
			if !strings.HasPrefix(err.Error(), name) {
				err = fmt.Errorf("%s: %w", name, err)
			}
			all = append(all, err)
		}
	}
	return errors.Join(all...)
}

// explain adds the broker's own words to an error.
func explain(err error, message string) error {
	if err == nil || strings.Contains(err.Error(), strings.TrimSuffix(message, ".")) {
		return err
	}
	return fmt.Errorf("%w (%s)", err, message)
}

func errorCell(err error) any {
	if err == nil {
		return nil
	}
	return err.Error()
}

// atLeast wants n or more arguments.
func atLeast(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < n {
			return usagef("%s: an argument is missing; usage: %s", cmd.CommandPath(), cmd.UseLine())
		}
		return nil
	}
}

// exactly wants n arguments.
func exactly(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return usagef("%s takes %d argument(s), got %d; usage: %s", cmd.CommandPath(), n, len(args), cmd.UseLine())
		}
		return nil
	}
}

// needSubcommand is what a command does that only holds others.
func needSubcommand(cmd *cobra.Command, args []string) error {
	var names []string
	for _, c := range cmd.Commands() {
		names = append(names, c.Name())
	}
	if len(args) > 0 {
		return usagef("%s has no %q; it has %s", cmd.CommandPath(), args[0], strings.Join(names, ", "))
	}
	return usagef("%s what? %s", cmd.CommandPath(), strings.Join(names, ", "))
}

func sortedNames[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
