package replicas

import (
	"slices"
	"strings"
	"testing"
)

func batches() []Batch {
	return []Batch{{0, 4, 100, 1, "a"}, {5, 5, 80, 1, "b"}, {6, 9, 90, 3, "c"}}
}

func directory(change func(*Log)) *Directory {
	l := &Log{Start: 0, End: 10, HighWatermark: 10, Batches: batches()}
	change(l)
	return &Directory{Logs: map[string]*Log{"t-0": l}}
}

func TestReplicasAreCompared(t *testing.T) {
	well := func(*Log) {}
	for name, c := range map[string]struct {
		second func(*Log)
		want   string // "": no difference
	}{
		"the same":                  {well, ""},
		"another checksum":          {func(l *Log) { l.Batches[1].CRC = "x" }, "checksum b"},
		"another epoch":             {func(l *Log) { l.Batches[2].Epoch = 2 }, "epoch 2"},
		"another length":            {func(l *Log) { l.Batches[2].Bytes = 91 }, "91 bytes"},
		"other borders":             {func(l *Log) { l.Batches[0].Last = 5; l.Batches = slices.Delete(l.Batches, 1, 2) }, "offsets 0 to 5"},
		"too short":                 {func(l *Log) { l.End = 6; l.HighWatermark = 6; l.Batches = l.Batches[:2] }, "ends at offset 6"},
		"below its high watermark":  {func(l *Log) { l.HighWatermark = 11 }, "below its high watermark"},
		"a gap":                     {func(l *Log) { l.Batches = slices.Delete(l.Batches, 1, 2) }, "offset 5 was due"},
		"less than it says":         {func(l *Log) { l.Batches = l.Batches[:2] }, "the last batch ends"},
		"more behind the end":       {func(l *Log) { l.End = 12; l.Batches = append(l.Batches, Batch{10, 11, 9, 3, "z"}) }, ""},
		"a later start":             {func(l *Log) { l.Start = 5; l.Batches = l.Batches[1:] }, ""},
		"a start inside of a batch": {func(l *Log) { l.Start = 3 }, ""},
	} {
		got := strings.Join(Compare(map[int]*Directory{1: directory(well), 2: directory(c.second)}, []Want{{"t", 0, []int{1, 2}, 10}}), "\n")
		if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestAMissingReplicaIsSeen(t *testing.T) {
	well := directory(func(*Log) {})
	both := map[int]*Directory{1: well, 2: {Logs: map[string]*Log{}}}
	if got := Compare(both, Everywhere(both)); len(got) != 1 || !strings.Contains(got[0], "node 2 holds no replica") {
		t.Errorf("%v", got)
	}
	damaged := map[int]*Directory{1: well, 2: {Logs: well.Logs, Problems: []string{"broken"}}}
	if got := Compare(damaged, Everywhere(damaged)); len(got) != 1 || !strings.Contains(got[0], "broken") {
		t.Errorf("%v", got)
	}
}
