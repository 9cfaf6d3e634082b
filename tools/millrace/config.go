package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func newConfigCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "config", GroupID: groupClient, Short: "Show and change the settings of topics and brokers", RunE: needSubcommand,
		Long: `Show and change the settings of topics and brokers while they run.

A resource is topic:NAME, broker:ID, or broker for the default of all brokers.`,
	}
	o := new(clientOptions).register(cmd)
	cmd.AddCommand(newConfigDescribe(o), newConfigSet(o), newConfigUnset(o), newConfigReference())
	return cmd
}

// resource is what settings belong to.
type resource struct {
	topic  string
	broker []int32 // empty: the default of all brokers
}

func parseResource(text string) (resource, error) {
	kind, name, named := strings.Cut(text, ":")
	switch {
	case kind == "topic" && name != "":
		return resource{topic: name}, nil
	case kind == "broker" && !named:
		return resource{}, nil
	case kind == "broker":
		id, err := strconv.ParseInt(name, 10, 32)
		if err != nil {
			return resource{}, usagef("%s: a broker has a number", text)
		}
		return resource{broker: []int32{int32(id)}}, nil
	}
	return resource{}, usagef("%q is no resource: write topic:NAME, broker:ID or broker", text)
}

func newConfigDescribe(o *clientOptions) *cobra.Command {
	var all, asJSON bool
	cmd := &cobra.Command{
		Use: "describe RESOURCE", Aliases: []string{"list", "get"}, Short: "Show settings and where they come from", Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := parseResource(args[0])
			if err != nil {
				return err
			}
			return o.admin(cmd.Context(), func(ctx context.Context, admin *kadm.Client) error {
				var configs kadm.ResourceConfigs
				var err error
				if r.topic != "" {
					configs, err = admin.DescribeTopicConfigs(ctx, r.topic)
				} else {
					configs, err = admin.DescribeBrokerConfigs(ctx, r.broker...)
				}
				if err != nil {
					return err
				}
				t := newTable("KEY", "VALUE", "SOURCE")
				for _, rc := range configs {
					if rc.Err != nil {
						return fmt.Errorf("%s: %w", args[0], explain(rc.Err, rc.ErrMessage))
					}
					for _, c := range rc.Configs {
						if !all && c.Source == kmsg.ConfigSourceDefaultConfig {
							continue
						}
						value := any(c.MaybeValue())
						if c.Sensitive {
							value = "(hidden)"
						}
						t.row(c.Key, value, strings.ToLower(c.Source.String()))
					}
				}
				if len(t.rows) == 0 && !all && !asJSON {
					fmt.Fprintln(cmd.ErrOrStderr(), "everything has its default: --all shows that, too")
					return nil
				}
				return t.write(cmd.OutOrStdout(), asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "also what has its default")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newConfigSet(o *clientOptions) *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use: "set RESOURCE KEY=VALUE...", Short: "Change settings", Args: atLeast(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var changes []kadm.AlterConfig
			for _, s := range args[1:] {
				key, value, ok := strings.Cut(s, "=")
				if !ok {
					return usagef("%s: write key=value", s)
				}
				changes = append(changes, kadm.AlterConfig{Op: kadm.SetConfig, Name: key, Value: kadm.StringPtr(value)})
			}
			return alter(cmd.Context(), o, args[0], dry, changes)
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only ask the broker whether it would do it")
	return cmd
}

func newConfigUnset(o *clientOptions) *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use: "unset RESOURCE KEY...", Short: "Give settings their defaults back", Args: atLeast(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var changes []kadm.AlterConfig
			for _, key := range args[1:] {
				changes = append(changes, kadm.AlterConfig{Op: kadm.DeleteConfig, Name: key})
			}
			return alter(cmd.Context(), o, args[0], dry, changes)
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only ask the broker whether it would do it")
	return cmd
}

func alter(ctx context.Context, o *clientOptions, name string, dry bool, changes []kadm.AlterConfig) error {
	r, err := parseResource(name)
	if err != nil {
		return err
	}
	return o.admin(ctx, func(ctx context.Context, admin *kadm.Client) error {
		var done kadm.AlterConfigsResponses
		var err error
		switch {
		case r.topic != "" && dry:
			done, err = admin.ValidateAlterTopicConfigs(ctx, changes, r.topic)
		case r.topic != "":
			done, err = admin.AlterTopicConfigs(ctx, changes, r.topic)
		case dry:
			done, err = admin.ValidateAlterBrokerConfigs(ctx, changes, r.broker...)
		default:
			done, err = admin.AlterBrokerConfigs(ctx, changes, r.broker...)
		}
		if err != nil {
			return err
		}
		var all []error
		for _, d := range done {
			if d.Err != nil {
				all = append(all, fmt.Errorf("%s: %w", name, explain(d.Err, d.ErrMessage)))
			}
		}
		return errors.Join(all...)
	})
}
