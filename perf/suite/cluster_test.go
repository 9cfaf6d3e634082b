package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/maphash"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"millrace/tools/millrace/bench"
)

func TestRowsOfAClusterStandBesideRowsOfOneBroker(t *testing.T) {
	s := &suite{opts: options{cluster: true, duration: time.Second}}
	seen := map[string]int{}
	for _, task := range s.tasks() {
		seen[task.w.id+" "+task.system]++
		if task.w.large != (task.w.walBytes() > 100<<20) {
			t.Errorf("%s has a write-ahead log of %d bytes", task.w.id, task.w.walBytes())
		}
	}
	for _, want := range []string{"W1 null", "W1 D2", "W7-W1 D2x3", "W3-64K null", "W7-W3-64K D2x3", "W7-catchup D2x3", "W7-failover D2x3"} {
		if seen[want] != 1 {
			t.Errorf("%s runs %d times", want, seen[want])
		}
	}
	s.opts.kafka = "somewhere"
	systems := map[string]bool{}
	for _, task := range s.tasks() {
		systems[task.system] = true
		if task.w.bare {
			t.Errorf("%s is compared and has no server", task.w.id)
		}
	}
	if len(systems) != 2 || !systems[sysD2x3] || !systems[sysKafka1x3] {
		t.Errorf("%v", systems)
	}
	s.opts.kafka, s.opts.rows = "", []string{"W7-W2"}
	if n := len(s.tasks()); n != 3 {
		t.Errorf("%d runs of one row", n)
	}
}

func TestEveryRowOfAClusterIsNamedOnceAndPrinted(t *testing.T) {
	seen := map[string]bool{}
	for _, w := range append(workloads(), clusterWorkloads()...) {
		if seen[w.id] {
			t.Errorf("%s is there twice", w.id)
		}
		seen[w.id] = true
	}
	for _, w := range clusterWorkloads() {
		if w.once == (w.beside != "") || w.rounds == 0 || w.run == nil {
			t.Errorf("%+v", w)
		}
		if w.once != isOperation(&result{Row: w.id}) {
			t.Errorf("%s: %v", w.id, w.once)
		}
	}
}

// rowsOfCluster are results as a run leaves them: the null broker, one broker and a cluster, under 128 tasks.
func rowsOfCluster(row string, rate, mb, brokers, client float64) (all []*result, ours *result) {
	ours = &result{Row: "W7-" + row, System: sysD2x3, Disk: diskOwn, Brokers: 3, Figures: map[string]float64{"rate": rate, "mb": mb, "broker_cores": brokers, "client_cores": client}}
	return []*result{
		{Row: row, System: sysNull, Disk: diskOwn, Figures: map[string]float64{"rate": 128_000}},
		{Row: row, System: sysD2, Disk: diskOwn, Figures: map[string]float64{"rate": 2 * rate}},
		ours,
	}, ours
}

func TestTheLowerBoundOfAClusterCounts(t *testing.T) {
	cores := processors()
	device := []figure{
		{Key: "flush_written_dsync_4k_x3", Value: 2000}, {Key: "flush_written_fdatasync_4k_x3", Value: 3000}, {Key: "write_direct_1m_qd4", Value: 1200},
	}
	for _, c := range []struct {
		row                       string
		rate, mb, brokers, client float64
		bounds                    []figure
		limit                     string
		value, ratio              float64
	}{
		// 1 ms there and back and 1.5 flushes of 2 ms: 32,000 a second, while the processors could do more.
		{"W2", 16_000, 4, cores / 8, cores / 8, device, "flush of three", 32_000, 0.5},
		// With all processors in use, a record takes what it takes.
		{"W2", 16_000, 4, cores / 2, cores / 2, device, "CPU", 16_000, 1},
		{"W2", 16_000, 4, cores / 4, cores / 4, nil, "CPU", 32_000, 0.5},
		{"W3-64K", 100_000, 150, cores / 4, cores / 4, device, limitDeviceSixth, 200, 0.75},
		{"W3-64K", 100_000, 50, cores / 4, cores / 4, device, "CPU", 200_000, 0.5},
	} {
		all, ours := rowsOfCluster(c.row, c.rate, c.mb, c.brokers, c.client)
		s := &suite{bounds: c.bounds}
		s.clusterLimits(all)
		near := func(a, b float64) bool { return math.Abs(a-b) < 1e-6*b }
		if !strings.HasPrefix(ours.Limit, c.limit) || !near(ours.get("limit"), c.value) || !near(ours.get("ratio"), c.ratio) || ours.get("of_one") != 0.5 {
			t.Errorf("%s: want %s %g %g: %+v", c.row, c.limit, c.value, c.ratio, ours)
		}
	}
}

func TestVoidRoundsDoNotCount(t *testing.T) {
	round := func(rate float64, marks ...string) *result {
		return &result{Row: "W7-W1", System: sysD2x3, Disk: diskOwn, Rounds: 1 - len(marks), Figures: map[string]float64{"rate": rate}, Marks: marks}
	}
	rows := joined([]*result{round(100), round(900, markVoid+": replicas left the ISR"), round(200)})
	if r := rows[0]; r.get("rate") != 150 || r.Rounds != 2 || !r.void() {
		t.Errorf("%+v", r)
	}
	if void(rows) == nil {
		t.Error("a run with a void round has not failed")
	}
}

func TestChangesOfReplicasAreSeen(t *testing.T) {
	state := func(leader, epoch int32, isr ...int32) *topicState {
		return &topicState{partitions: map[int32]*partitionState{0: {leader, epoch, []int32{1, 2, 3}, isr}}}
	}
	before := state(1, 5, 1, 2, 3)
	for _, c := range []struct {
		now     *topicState
		changes int
	}{
		{state(1, 5, 1, 2, 3), 0},
		{state(1, 5, 1, 3), 1},
		{state(2, 6, 1, 2, 3), 1},
		{state(1, 6, 1, 2, 3), 1},
		{&topicState{partitions: map[int32]*partitionState{}}, 1},
	} {
		if got := changed(before, c.now); len(got) != c.changes {
			t.Errorf("%v", got)
		}
	}
	if inSync(3)(before) != "" || inSync(3)(state(1, 5, 1, 3)) == "" || inSync(2)(state(-1, 5, 1, 3)) == "" {
		t.Error("replicas in sync are miscounted")
	}
}

// batchOf is a batch of n records that begins at an offset; only its head is what Kafka's are.
func batchOf(base int64, n int, content string) []byte {
	b := make([]byte, batchLeast+len(content))
	binary.BigEndian.PutUint64(b, uint64(base))
	binary.BigEndian.PutUint32(b[batchLengthAt:], uint32(len(b)-batchHead))
	binary.BigEndian.PutUint32(b[batchLastAt:], uint32(n-1))
	copy(b[batchLeast:], content)
	return b
}

func TestReplicasAreTheSameOnlyIfEveryBatchIs(t *testing.T) {
	seed := maphash.MakeSeed()
	read := func(pieces ...[]byte) (end int64, sum uint64, err error) {
		var h maphash.Hash
		h.SetSeed(seed)
		for _, p := range pieces {
			if end, err = walk(p, end, 8, &h); err != nil {
				break
			}
		}
		return end, h.Sum64(), err
	}
	a, b := batchOf(0, 5, "one"), batchOf(5, 3, "two")
	end, whole, err := read(append(slices.Clone(a), b...))
	if end != 8 || err != nil {
		t.Fatal(end, err)
	}
	// In pieces, of which the first is cut within its second batch, and with more than is asked for.
	if end, sum, err := read(append(slices.Clone(a), b[:20]...), append(slices.Clone(b), batchOf(8, 1, "more")...)); end != 8 || sum != whole || err != nil {
		t.Error(end, sum == whole, err)
	}
	for at := range len(a) {
		other := bytes.Clone(a)
		other[at] ^= 1
		if end, sum, err := read(append(other, b...)); err == nil && end == 8 && sum == whole {
			t.Errorf("byte %d does not count", at)
		}
	}
	if _, _, err := read(b); !errors.Is(err, errBatch) {
		t.Errorf("a hole: %v", err)
	}
	if end, _, _ := read(a); end != 5 {
		t.Errorf("half of it ends at %d", end)
	}
}

func TestCostsAreSplitBetweenLeaderAndFollowers(t *testing.T) {
	srv := &server{system: sysD2x3, lead: 1, nodes: []*node{{id: 1}, {id: 2}, {id: 3}}}
	nodes := func(seconds ...float64) (n []nodeSample) {
		for i, v := range seconds {
			n = append(n, nodeSample{seconds: v, rss: float64(i)})
		}
		return n
	}
	o := &observed{}
	o.from.nodes, o.to.nodes = nodes(1, 1, 1), nodes(2, 5, 3)
	r := &result{Figures: map[string]float64{}}
	rep := &bench.Report{CPU: bench.CPU{ClientCores: 0.5}}
	r.processors(srv, rep, o, 10, 1e6, 2)
	for name, want := range map[string]float64{
		"broker_cores": 0.7, "us_per_msg": 7, "leader_us": 4, "follower_us": 1.5, "client_us": 5, "leader_per_gb": 2, "follower_per_gb": 0.75, "rss": 2, "rss_3": 2,
	} {
		if math.Abs(r.get(name)-want) > 1e-9 {
			t.Errorf("%s is %g, not %g", name, r.get(name), want)
		}
	}
	rep.Settings.Partitions = 4
	r = &result{Figures: map[string]float64{}}
	if r.processors(srv, rep, o, 10, 1e6, 2); r.get("leader_us") != 0 || r.get("us_per_msg") != 7 {
		t.Errorf("all brokers lead: %v", r.Figures)
	}
}

func TestPausesOfAcknowledgements(t *testing.T) {
	var a acknowledged
	at := func(ms int) time.Time { return time.UnixMilli(1_000_000).Add(time.Duration(ms) * time.Millisecond) }
	a.add(at(0), at(1))
	a.add(at(2), at(503))
	a.mark() // 503 to 2600 begins before it and counts
	a.add(at(600), at(2600))
	a.add(at(601), at(2601))
	if due, longest, n := a.now(); longest != 2097*time.Millisecond || n != 4 || !due.Equal(at(601)) {
		t.Error(due, longest, n)
	}
}

func TestFiguresOfOtherProgramsAreTaken(t *testing.T) {
	r := &result{Figures: map[string]float64{}}
	err := r.bookOutages([]byte(`{"nodes": 3, "outages": [
		{"name": "kill the leader", "median_ms": 2100.5, "worst_ms": 2500, "gaps_ms": [2000, 2100.5, 2500], "failures": 0},
		{"name": "pause the leader", "median_ms": 0, "worst_ms": 0, "gaps_ms": [], "failures": 2}]}`))
	if err != nil || r.get(outsidePrefix+"kill the leader"+outsideUnit+"ms median") != 2100.5 || len(r.Marks) != 1 || len(r.Figures) != 3 {
		t.Errorf("%v, %+v", err, r)
	}
	for _, text := range []string{``, `{}`, `{"outages": []}`} {
		if r.bookOutages([]byte(text)) == nil {
			t.Errorf("%q was taken", text)
		}
	}
	r = &result{Figures: map[string]float64{}}
	parseBenchmarks([]byte(`goos: linux
BenchmarkAlterPartition/topics=1000/partitions=100-2   	   10000	     12345 ns/op	    1234 B/op	      12 allocs/op
BenchmarkCommit/under-way=128-2   	   10000	      2000 ns/op	    5000 commits/s
PASS
`), r.outside)
	want := []string{"AlterPartition/topics=1000/partitions=100: 1234 B, 12 allocs, 12.3 us", "Commit/under-way=128: 5000 commits/s, 2 us"}
	if got := named(r); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestClustersAreComparedWithClusters(t *testing.T) {
	rows := []*result{
		{Row: "W7-W1", System: sysD2x3, Disk: diskOwn, Figures: map[string]float64{"rate": 300}},
		{Row: "W7-W1", System: sysKafka1x3, Disk: diskOwn, Figures: map[string]float64{"rate": 100}},
		{Row: "W7-kill", System: sysD2x3, Disk: diskOwn, Figures: map[string]float64{"leader_gap": 2000, "kills": 20}},
		{Row: "W7-kill", System: sysKafka1x3, Disk: diskOwn, Figures: map[string]float64{"leader_gap": 8000, "kills": 20}},
	}
	var out bytes.Buffer
	writeRatios(&out, rows)
	writeOperationRatios(&out, rows)
	for _, want := range []string{"3.00", "x 0.25"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s is not in %s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "x 1.00") {
		t.Errorf("what was given is compared: %s", out.String())
	}
}
