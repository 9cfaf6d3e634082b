package broker

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"millrace/broker/config"
	"millrace/engine"
)

// Options is what a broker process is told at its start. The zero value of a
// field means its default.
type Options struct {
	DataDir        string   // required; created when missing
	NodeID         int32    // default 1; fixed for the life of a data directory
	ListenAddrs    []string // default 127.0.0.1:9092
	AdvertisedHost string   // default: the host of the first listener, localhost for a loopback one
	AdvertisedPort int32    // default: the port of the first listener
	IO             string   // auto, uring or pwrite
	Shards         int      // WAL shards for new logs; default by the number of cores
	Config         *config.Broker
	Machine        config.Machine // what the sizes that Config leaves open depend on; default: what the kernel says
	Logger         *slog.Logger
	Now            func() time.Time // default time.Now
	// Cluster makes the broker one of several; nil: it runs alone.
	Cluster *ClusterOptions

	// engine, when set, changes the engine's options: for tests.
	engine func(*engine.Options)
	// fetchParts, when set, is what fetchPartsMax would work out: for tests.
	fetchParts int64
}

func (o *Options) complete() error {
	if o.DataDir == "" {
		return errors.New("broker: a data directory is needed")
	}
	if o.NodeID == 0 {
		o.NodeID = 1
	}
	if o.NodeID < 0 {
		return fmt.Errorf("broker: node id %d: must not be negative", o.NodeID)
	}
	if len(o.ListenAddrs) == 0 {
		o.ListenAddrs = []string{"127.0.0.1:9092"}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now //nolint:forbidigo // the one place where the clock comes from
	}
	if o.Config == nil {
		c, err := config.New(nil)
		if err != nil {
			return err
		}
		o.Config = c
	}
	return o.Cluster.complete()
}
