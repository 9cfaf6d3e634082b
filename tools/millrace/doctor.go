package main

import (
	"encoding/json"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"millrace/tools/millrace/doctor"
)

func newDoctorCommand(o *serverOptions, c *clusterOptions, serverFlags, clusterFlags *pflag.FlagSet) *cobra.Command {
	var asJSON bool
	measure := seconds(time.Second)
	cmd := &cobra.Command{
		Use: "doctor", GroupID: groupMachine, Short: "Say what this machine gives a broker, and what to change", Args: noArgs,
		Long: `Say in plain words what this machine gives a broker, and what to change: kernel, io_uring, processor, memory,
limits, file system, device, the cost of a flush, addresses. It takes the server's flags, so that it looks at the
directory and addresses that the server would use; with the flags of raft-cluster also at the cluster port and whether
the peers answer. It exits with 1 if something is bad.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := c.planIfSaid(o)
			if err != nil {
				return err
			}
			addresses := p.listen
			if a := p.config.AdminAddress(); a != "" {
				addresses = append(addresses, a)
			}
			var peers []string
			if p.cluster != nil {
				addresses = append(addresses, p.cluster.RaftAddr)
				for _, peer := range p.cluster.Peers {
					peers = append(peers, peer.Addr)
				}
			}
			findings := doctor.Examine(cmd.Context(), doctor.Options{
				DataDir: p.config.DataDir(), Addresses: addresses, Peers: peers,
				Budgets: p.sizes.RingBytes*int64(p.sizes.Shards) + p.sizes.NetworkMemoryBytes, Measure: time.Duration(measure),
			})
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				err = enc.Encode(findings)
			} else {
				err = doctor.Write(cmd.OutOrStdout(), findings)
			}
			if err == nil && doctor.Worst(findings) == doctor.Bad {
				return errReported
			}
			return err
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().Var(&measure, "measure", "how long each measurement takes (0: none)")
	cmd.Flags().AddFlagSet(serverFlags)
	cmd.Flags().AddFlagSet(clusterFlags)
	return cmd
}
