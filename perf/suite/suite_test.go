package main

import (
	"strings"
	"testing"
)

func TestRoundsBecomeMediansAndRanges(t *testing.T) {
	var all []*result
	for _, rate := range []float64{300, 100, 200} {
		all = append(all, &result{Row: "W1", System: sysD2, Disk: diskOwn, Rounds: 1, Figures: map[string]float64{"rate": rate}})
	}
	all = append(all, &result{Row: "W1", System: sysD2, Disk: diskOwn, Figures: map[string]float64{}, Errors: []string{"it fell over"}})
	all = append(all, &result{Row: "W1", System: sysD2, Disk: diskLoop, Figures: map[string]float64{"rate": 1}})
	rows := joined(all)
	if len(rows) != 2 {
		t.Fatalf("%d rows", len(rows))
	}
	r := find(rows, "W1", sysD2)
	if r.get("rate") != 200 || r.Ranges["rate"] != [2]float64{100, 300} || r.Rounds != 3 || len(r.Errors) != 1 {
		t.Errorf("%+v", r)
	}
}

func TestMetricsAreSummedOverShardsAndKeptByAPI(t *testing.T) {
	m := parseMetrics([]byte(`# a comment
millrace_requests_total{api="Produce"} 7
millrace_requests_total{api="Fetch"} 5
millrace_shard_flushes_total{shard="0",io="uring"} 3
millrace_shard_flushes_total{shard="1",io="uring"} 4
go_memstats_mallocs_total 17
`))
	if m[`millrace_requests_total{api="Produce"}`] != 7 || m["millrace_shard_flushes_total"] != 7 || m["go_memstats_mallocs_total"] != 17 {
		t.Errorf("%v", m)
	}
}

func TestStacksAreFoldedFromTheOutside(t *testing.T) {
	root := foldStacks([]byte(`millrace
        45a1b0 memmove
        45a000 place

millrace
        45a000 place
`), nil)
	if root.samples != 2 || root.child("place").samples != 2 || root.child("place").child("memmove").samples != 1 {
		t.Errorf("%+v", root)
	}
	if svg := string(drawFlame(root, "a<b")); !strings.Contains(svg, "memmove: 50.0 %") || strings.Contains(svg, "a<b") {
		t.Error(svg)
	}
}

func TestFlushBoundsTheRowOfOneRecordARequest(t *testing.T) {
	null := &result{Row: "W2", System: sysNull, Disk: diskOwn, Figures: map[string]float64{"rate": 128_000, "us_per_msg": 5}}
	ours := &result{Row: "W2", System: sysD2, Disk: diskOwn, Figures: map[string]float64{"rate": 40_000, "flush_us": 1000, "us_per_msg": 6}}
	new(suite).limits([]*result{null, ours})
	// Each of 128 tasks waits for its own flush and half of another one, and 1 ms for the rest: 51,200 a second.
	if ours.Limit != "flush" || ours.get("limit") != 51_200 || ours.get("of_null") != 0.3125 || ours.get("cpu_of_null") != 1.2 {
		t.Errorf("%+v", ours)
	}
}

func TestGateTellsWorseFromBetterAndFromNoise(t *testing.T) {
	row := "W1 D2 own"
	record := func(allocs, ofNull float64) *gateRecord {
		return &gateRecord{Rows: map[string]map[string]float64{row: {"allocs": allocs, "of_null": ofNull}}}
	}
	old := record(0.01, 0.8)
	for _, c := range []struct {
		now   *gateRecord
		worse string
	}{
		{record(0.05, 0.75), ""},
		{record(1.01, 0.8), "allocs"},
		{record(0.01, 0.4), "of_null"},
		{record(0, 1.3), ""},
		{&gateRecord{}, "no row"},
	} {
		err := compareGate(old, c.now)
		if (err == nil) != (c.worse == "") || err != nil && !strings.Contains(err.Error(), c.worse) {
			t.Errorf("%v: %v", c.now.Rows, err)
		}
	}
}

// A row that another one takes its rate from has to come first.
func TestRowsAreNamedOnceAndRatesComeFromRowsBefore(t *testing.T) {
	seen := map[string]*workload{}
	for _, w := range workloads() {
		if seen[w.id] != nil {
			t.Errorf("%s is there twice", w.id)
		}
		seen[w.id] = w
		if of := seen[w.of]; w.of != "" && (of == nil || w.quick && !of.quick || w.compare && !of.compare) {
			t.Errorf("%s takes its rate from %s, which does not run before it", w.id, w.of)
		}
	}
}
