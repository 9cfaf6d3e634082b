package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"millrace/tools/millrace/admin"
)

// node is the broker as this program sees it.
type node interface {
	admin.Node
	admin.Cluster
	Shutdown(ctx context.Context) error
	Failed() <-chan error
}

// runServer runs the broker of a plan, alone or as a node of a cluster, until ctx ends (a signal) or the broker fails.
// The order is: admin server first, so that recovery can be watched; broker; wait; broker down; admin server last. The
// warnings are logged beside those of the configuration.
func runServer(ctx context.Context, p *plan, warnings []string) error {
	log := p.logger()
	for _, w := range slices.Concat(p.warnings, warnings) {
		log.Warn(w)
	}
	tuneRuntime(p.memory)
	var web *admin.Server
	if addr := p.config.AdminAddress(); addr != "" {
		var err error
		if web, err = admin.Listen(addr); err != nil {
			return err
		}
		if p.cluster != nil {
			web.SetState("starting: recovering the log, then looking for a quorum of the cluster")
		}
		log.Info("admin server is up", "address", "http://"+web.Addr().String())
		defer func() {
			closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_ = web.Close(closing) // the process ends anyway; a profile under way is cut
		}()
	}
	n, err := startNode(ctx, p, log)
	if err != nil && ctx.Err() != nil {
		log.Info("asked to end before it had started")
		return nil
	}
	if err != nil {
		return err
	}
	if web != nil {
		web.Attach(n)
		if p.cluster != nil {
			web.AttachCluster(n)
		}
	}
	p.warnOpen(log)
	notifySupervisor(log, "READY=1")

	var failure error
	timeout := p.config.ShutdownTimeout()
	select {
	case <-ctx.Done():
		log.Info("ending: draining clients and flushing", "timeout", timeout)
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
	return errors.Join(failure, shutdown(ctx, n, timeout, log))
}

// warnOpen says who can connect, as nothing asks for a password yet.
func (p *plan) warnOpen(log *slog.Logger) {
	if p.open {
		log.Warn("there is no authentication: everyone who reaches these addresses can read and write everything", "addresses", p.listen)
	} else {
		log.Info("only this machine can connect, as there is no authentication: --bind-addr opens it to others", "addresses", p.listen)
	}
	c := p.cluster
	if c == nil || c.TLS != nil || len(c.Secret) > 0 {
		return
	}
	if host, _, _ := net.SplitHostPort(c.RaftAddr); !isLoopback(host) { // the plan has checked it
		log.Warn("everyone who reaches the cluster port can act as a node: --cluster-secret-file, or --cluster-tls-cert, -key and -ca", "address", c.RaftAddr)
	}
}

func shutdown(ctx context.Context, n node, timeout time.Duration, log *slog.Logger) error {
	began := time.Now()
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	if err := n.Shutdown(ending); err != nil {
		return fmt.Errorf("shutdown: %w", err)
	}
	log.Info("ended", "after", time.Since(began).Round(time.Millisecond))
	return nil
}

// goMemoryMin is the least that Go's heap may grow to before the collector works harder.
const goMemoryMin = 128 << 20

// tuneRuntime sets the garbage collector by a stated rule, unless GOGC or GOMEMLIMIT say otherwise: the data
// is outside of Go's heap, which is small, so it may double twice between collections (GOGC=400), but the
// runtime tries to stay below a sixteenth of the memory.
func tuneRuntime(memory int64) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(max(goMemoryMin, memory/16))
	}
}
