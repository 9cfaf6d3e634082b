package main

import (
	"log/slog"
	"time"

	"millrace/tools/chaos/history"
)

// options describe a run.
type options struct {
	binary     string
	dir        string
	duration   time.Duration
	seed       uint64
	nodes      int
	partitions int
	producers  int
	rate       float64 // records a second a producer
	size       int
	network    bool
	disks      bool
	lie        bool
	faults     []string // nil: all
	expect     []history.Rule
	anyRule    bool
	keep       bool
	args       []string
	log        *slog.Logger
}

func defaults() options {
	return options{duration: time.Minute, nodes: 3, partitions: 4, producers: 8, rate: 100, size: 1024}
}

// negative reports whether the run is a control: it succeeds when a violation is found.
func (o *options) negative() bool { return o.anyRule || len(o.expect) > 0 }

// topic is one that the load uses.
type topic struct {
	name    string
	configs map[string]string
}

var topics = []topic{
	{"plain", nil},
	{"rolling", map[string]string{"segment.bytes": "1048576"}}, // many segments
}

func topicNames() []string {
	var names []string
	for _, t := range topics {
		names = append(names, t.name)
	}
	return names
}
