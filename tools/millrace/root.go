package main

import (
	"github.com/spf13/cobra"
)

// newRootCommand builds the tree of commands. The server's flags belong to the root and to standalone
// alike (they are the same variables), so they may stand before or after the subcommand.
func newRootCommand() *cobra.Command {
	o, c := newServerOptions(), newClusterOptions()
	root := &cobra.Command{
		Use:   "millrace",
		Short: "A durable broker for Linux that speaks Kafka's protocol",
		Long: `Millrace is a durable broker for Linux that speaks Kafka's protocol.

Without a subcommand it starts a standalone broker: data in ./data, Kafka clients on
127.0.0.1:9092, metrics and health on http://127.0.0.1:9644.`,
		Args:             rootArgs,
		TraverseChildren: true,
		SilenceErrors:    true,
		SilenceUsage:     true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runStandalone(cmd, o)
		},
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	serverFlags, clusterFlags := o.flagSet(), c.flagSet()
	root.Flags().SortFlags = false
	root.Flags().AddFlagSet(serverFlags)

	root.AddGroup(
		&cobra.Group{ID: groupServer, Title: "Server:"},
		&cobra.Group{ID: groupClient, Title: "Clients (any Kafka-compatible broker):"},
		&cobra.Group{ID: groupCluster, Title: "Cluster (over a node's admin address):"},
		&cobra.Group{ID: groupMachine, Title: "This machine and its data:"},
	)
	root.AddCommand(
		newStandaloneCommand(o, serverFlags), newRaftClusterCommand(o, c, serverFlags, clusterFlags),
		newBenchCommand(), newTopicCommand(), newGroupCommand(), newConfigCommand(), newProduceCommand(), newConsumeCommand(),
		newClusterCommand(),
		newDoctorCommand(o, c, serverFlags, clusterFlags), newLogCommand(),
		newVersionCommand(),
	)
	// The environment fills what the command line left open, for whichever command runs.
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		return setFromEnvironment(cmd)
	}
	return root
}

const (
	groupServer  = "server"
	groupClient  = "client"
	groupCluster = "cluster"
	groupMachine = "machine"
)

// rootArgs turns an unknown subcommand into a usage error that names the nearest known one.
func rootArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return usagef("unknown command %q; did you mean %q?", args[0], near[0])
	}
	return usagef("unknown command %q", args[0])
}
