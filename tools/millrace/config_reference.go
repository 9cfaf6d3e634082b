package main

import (
	"github.com/spf13/cobra"

	"millrace/broker/config"
)

// newConfigReference prints the documentation of every setting; `make docs` puts it into the tree.
func newConfigReference() *cobra.Command {
	return &cobra.Command{
		Use: "reference", Short: "Print the documentation of every setting (Markdown)", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return config.WriteReference(cmd.OutOrStdout())
		},
	}
}
