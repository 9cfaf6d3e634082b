package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"millrace/tools/millrace/admin"
)

func newStandaloneCommand(o *serverOptions, flags *pflag.FlagSet) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "standalone",
		GroupID: groupServer,
		Short:   "Run one broker on this machine (the default)",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runStandalone(cmd.Context(), o)
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().AddFlagSet(flags)
	return cmd
}

// node is the broker as this program sees it.
type node interface {
	admin.Node
	Shutdown(ctx context.Context) error
	Failed() <-chan error
}

// runStandalone runs a broker until ctx ends (a signal) or the broker fails. The order is: admin server
// first, so that recovery can be watched; broker; wait; broker down; admin server last.
func runStandalone(ctx context.Context, o *serverOptions) error {
	log, err := o.logger()
	if err != nil {
		return err
	}
	var web *admin.Server
	if o.adminAddr != "off" && o.adminAddr != "" {
		if web, err = admin.Listen(o.adminAddr); err != nil {
			return err
		}
		log.Info("admin server is up", "address", "http://"+web.Addr().String())
		defer func() {
			closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_ = web.Close(closing) // the process ends anyway; a profile under way is cut
		}()
	}
	n, err := startNode(ctx, o, log)
	if err != nil {
		return err
	}
	if web != nil {
		web.Attach(n)
	}
	notifySupervisor(log, "READY=1")

	var failure error
	select {
	case <-ctx.Done():
		log.Info("ending: draining clients and flushing", "timeout", time.Duration(o.shutdownTimeout))
	case failure = <-n.Failed():
		log.Error("the broker has failed and ends", "reason", failure)
		if web != nil {
			web.Fail(failure)
		}
	}
	if web != nil {
		web.SetState("ending")
	}
	notifySupervisor(log, "STOPPING=1")
	return errors.Join(failure, shutdown(ctx, n, o, log))
}

func shutdown(ctx context.Context, n node, o *serverOptions, log *slog.Logger) error {
	began := time.Now()
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Duration(o.shutdownTimeout))
	defer cancel()
	if err := n.Shutdown(ending); err != nil {
		return fmt.Errorf("shutdown: %w", err)
	}
	log.Info("ended", "after", time.Since(began).Round(time.Millisecond))
	return nil
}
