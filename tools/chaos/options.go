package main

import (
	"log/slog"
	"slices"
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
	name     string
	configs  map[string]string
	volatile bool // acknowledged before the flush: survives processes, not the power
}

var topics = []topic{
	{"plain", map[string]string{"min.insync.replicas": "2"}, false},
	{"rolling", map[string]string{"min.insync.replicas": "2", "segment.bytes": "1048576"}, false}, // many segments
	{"single", map[string]string{"min.insync.replicas": "1"}, false},                              // one that is in sync is enough to acknowledge
	{"unflushed", map[string]string{"min.insync.replicas": "2", "flush.messages": "100000"}, true},
}

// topics are those that keep their promises under the faults of this run.
func (o *options) topics() []topic {
	if !o.disks {
		return topics
	}
	return slices.DeleteFunc(slices.Clone(topics), func(t topic) bool { return t.volatile })
}

func (o *options) topicNames() []string {
	var names []string
	for _, t := range o.topics() {
		names = append(names, t.name)
	}
	return names
}
