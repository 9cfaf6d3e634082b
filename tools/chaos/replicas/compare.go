package replicas

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sort"
)

// Want is a partition that some nodes must hold up to an offset.
type Want struct {
	Topic     string
	Partition int32
	Nodes     []int
	End       int64 // every replica must hold everything below
}

// differencesMax bounds how many differences of one partition are told.
const differencesMax = 3

// Compare says what differs between the directories, by node, for the partitions that are wanted.
func Compare(directories map[int]*Directory, wanted []Want) []string {
	var differences []string
	for _, node := range slices.Sorted(maps.Keys(directories)) {
		for _, p := range directories[node].Problems {
			differences = append(differences, fmt.Sprintf("node %d: %s", node, p))
		}
	}
	for _, w := range wanted {
		differences = append(differences, compare(directories, w)...)
	}
	return differences
}

func compare(directories map[int]*Directory, w Want) []string {
	var differences []string
	say := func(format string, args ...any) {
		if len(differences) < differencesMax {
			differences = append(differences, fmt.Sprintf("%s/%d: ", w.Topic, w.Partition)+fmt.Sprintf(format, args...))
		}
	}
	logs := map[int]*Log{}
	start, end := int64(0), w.End
	for _, node := range w.Nodes {
		d := directories[node]
		if d == nil || d.Logs[name(w.Topic, w.Partition)] == nil {
			say("node %d holds no replica", node)
			continue
		}
		l := d.Logs[name(w.Topic, w.Partition)]
		if l.End < w.End {
			say("node %d ends at offset %d, its end was %d", node, l.End, w.End)
		}
		if l.HighWatermark > l.End {
			say("node %d ends at offset %d, below its high watermark %d", node, l.End, l.HighWatermark)
		}
		logs[node] = l
		start, end = max(start, l.Start), min(end, l.End)
	}
	nodes := slices.Sorted(maps.Keys(logs))
	for _, node := range nodes {
		if gap := gapOf(logs[node]); gap != "" {
			say("node %d: %s", node, gap)
		}
		if node == nodes[0] {
			continue
		}
		if what := difference(logs[nodes[0]], logs[node], start, end); what != "" {
			say("node %d and node %d: %s", nodes[0], node, what)
		}
	}
	return differences
}

// gapOf says where the batches of a log do not follow each other.
func gapOf(l *Log) string {
	next := l.Start
	for i, b := range l.Batches {
		if i == 0 && b.Base < next { // it begins inside a batch
			next = b.Base
		}
		if b.Base != next {
			return fmt.Sprintf("offset %d was due, there are %v", next, b)
		}
		next = b.Last + 1
	}
	if next != l.End {
		return fmt.Sprintf("the last batch ends at offset %d, the log at %d", next, l.End)
	}
	return ""
}

// difference is the first between two logs in [start, end).
func difference(a, b *Log, start, end int64) string {
	x, y := window(a.Batches, start, end), window(b.Batches, start, end)
	for i := range max(len(x), len(y)) {
		switch {
		case i >= len(x):
			return fmt.Sprintf("nothing, and %v", y[i])
		case i >= len(y):
			return fmt.Sprintf("%v, and nothing", x[i])
		case x[i] != y[i]:
			return fmt.Sprintf("%v, and %v", x[i], y[i])
		}
	}
	return ""
}

// window is the batches that overlap [start, end).
func window(batches []Batch, start, end int64) []Batch {
	from := sort.Search(len(batches), func(i int) bool { return batches[i].Last >= start })
	to := sort.Search(len(batches), func(i int) bool { return batches[i].Base >= end })
	return batches[from:max(from, to)]
}

// Everywhere wants every partition of some directories on every one of them, up to what each knows to be committed.
func Everywhere(directories map[int]*Directory) []Want {
	ends := map[string]int64{}
	for _, d := range directories {
		for n, l := range d.Logs {
			ends[n] = max(ends[n], l.HighWatermark)
		}
	}
	var wanted []Want
	for n, end := range ends {
		topic, partition := split(n)
		wanted = append(wanted, Want{Topic: topic, Partition: partition, Nodes: slices.Sorted(maps.Keys(directories)), End: end})
	}
	slices.SortFunc(wanted, func(a, b Want) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return wanted
}
