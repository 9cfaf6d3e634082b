package main

import (
	"context"
	"log/slog"

	"millrace/broker"
)

// startNode starts the broker that the options describe.
func startNode(ctx context.Context, p *plan, log *slog.Logger) (node, error) {
	b, err := broker.Start(ctx, broker.Options{
		DataDir:        p.config.DataDir(),
		NodeID:         p.config.NodeID(),
		ListenAddrs:    p.listen,
		AdvertisedHost: p.advertisedHost,
		AdvertisedPort: p.advertisedPort,
		Config:         p.config,
		Machine:        p.machine,
		Cluster:        p.cluster,
		Logger:         log,
	})
	if err != nil {
		return nil, err // not a typed nil in an interface
	}
	return b, nil
}
