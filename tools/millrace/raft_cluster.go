package main

import (
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newRaftClusterCommand(o *serverOptions, c *clusterOptions, serverFlags, clusterFlags *pflag.FlagSet) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "raft-cluster",
		GroupID: groupServer,
		Short:   "Run a broker as a node of a cluster",
		Args:    noArgs,
		Long: `Run a broker as a node of a cluster: metadata agreed on by raft, partitions replicated from their leader to the
others. It takes the server's flags, too, before and after its name.

The first nodes (one, three or five) are all started with --bootstrap and with each other as --peers, in any order. A later
node is started with --join and some members as --peers, then millrace cluster add gives it a vote. Once a data
directory belongs to a cluster, --bootstrap and --join are ignored.

Unless told otherwise the data is in ./data/node-ID and the admin address is 127.0.0.1, port 9643 + ID.`,
		Example: `  millrace --node-id 1 --kafka-port 9092 raft-cluster --raft-addr 127.0.0.1:9192 --peers "2@localhost:9193,3@localhost:9194" --bootstrap
  millrace --node-id 2 --kafka-port 9093 raft-cluster --raft-addr 127.0.0.1:9193 --peers "1@localhost:9192,3@localhost:9194" --bootstrap
  millrace --node-id 3 --kafka-port 9094 raft-cluster --raft-addr 127.0.0.1:9194 --peers "1@localhost:9192,2@localhost:9193" --bootstrap
  millrace --node-id 4 --kafka-port 9095 raft-cluster --raft-addr 127.0.0.1:9195 --peers "1@localhost:9192" --join`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := c.plan(o)
			if err != nil {
				return err
			}
			return runServer(cmd.Context(), p, unknownVariables(cmd.Root(), os.Environ()))
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().AddFlagSet(clusterFlags)
	cmd.Flags().AddFlagSet(serverFlags)
	return cmd
}
