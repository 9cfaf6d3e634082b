package main

import (
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newStandaloneCommand(o *serverOptions, flags *pflag.FlagSet) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "standalone",
		GroupID: groupServer,
		Short:   "Run one broker on this machine (the default)",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runStandalone(cmd, o) },
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().AddFlagSet(flags)
	return cmd
}

func runStandalone(cmd *cobra.Command, o *serverOptions) error {
	p, err := o.plan()
	if err != nil {
		return err
	}
	return runServer(cmd.Context(), p, unknownVariables(cmd.Root(), os.Environ()))
}
