package main

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"millrace/tools/millrace/bench"
)

// result is one row on one system: of one round, or the medians of all rounds.
type result struct {
	Row    string `json:"row"`
	Title  string `json:"title"`
	System string `json:"system"`
	Disk   string `json:"disk"`
	Rounds int    `json:"rounds"`

	Brokers int `json:"brokers,omitempty"` // of a cluster

	// figures by name; what is not there was not measured. Names are those of `columns` and a few more.
	Figures map[string]float64    `json:"figures"`
	Ranges  map[string][2]float64 `json:"ranges,omitempty"` // least and most of the rounds
	Limit   string                `json:"limit,omitempty"`  // what "ratio" is of
	Marks   []string              `json:"marks,omitempty"`  // what makes the figures worth less
	Errors  []string              `json:"errors,omitempty"` // rounds that gave no figures
}

func (r *result) set(name string, value float64) {
	if !math.IsNaN(value) && !math.IsInf(value, 0) {
		r.Figures[name] = value
	}
}

func (r *result) get(name string) float64 { return r.Figures[name] }

func (r *result) mark(m string) {
	if !slices.Contains(r.Marks, m) {
		r.Marks = append(r.Marks, m)
	}
}

// latency takes a distribution's figures, under names with a prefix.
func (r *result) latency(prefix string, l *bench.Latency) {
	if l == nil {
		return
	}
	for _, f := range []struct {
		name  string
		value int64
	}{{"p50", l.P50}, {"p90", l.P90}, {"p99", l.P99}, {"p999", l.P999}, {"max", l.Max}} {
		r.set(prefix+f.name, float64(f.value))
	}
}

// key identifies what rounds are joined by.
func (r *result) key() string { return strings.Join([]string{r.Row, r.System, r.Disk}, " ") }

// join makes one result of the rounds of the same row, system and disk: medians and ranges.
func join(rounds []*result) *result {
	out := *rounds[0]
	out.Figures, out.Ranges, out.Rounds, out.Marks, out.Errors = map[string]float64{}, map[string][2]float64{}, 0, nil, nil
	values := map[string][]float64{}
	for _, r := range rounds {
		for name, v := range r.counting() {
			values[name] = append(values[name], v)
		}
		for _, m := range r.Marks {
			out.mark(m)
		}
		out.Errors = append(out.Errors, r.Errors...)
		out.Rounds += r.Rounds
		out.Brokers = max(out.Brokers, r.Brokers)
	}
	for name, v := range values {
		slices.Sort(v)
		out.Figures[name] = median(v)
		out.Ranges[name] = [2]float64{v[0], v[len(v)-1]}
	}
	return &out
}

// counting are the figures of a round; a void one has none.
func (r *result) counting() map[string]float64 {
	if r.void() {
		return nil
	}
	return r.Figures
}

// void tells whether the run is worth nothing.
func (r *result) void() bool {
	return slices.ContainsFunc(r.Marks, func(m string) bool { return strings.HasPrefix(m, markVoid) })
}

// median of sorted values.
func median(v []float64) float64 {
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// joined are the results by row, system and disk, in the order of the rows.
func joined(all []*result) []*result {
	byKey := map[string][]*result{}
	var order []string
	for _, r := range all {
		if byKey[r.key()] == nil {
			order = append(order, r.key())
		}
		byKey[r.key()] = append(byKey[r.key()], r)
	}
	var out []*result
	for _, k := range order {
		out = append(out, join(byKey[k]))
	}
	position := map[string]int{}
	for i, w := range append(workloads(), clusterWorkloads()...) {
		position[w.id] = i
	}
	slices.SortStableFunc(out, func(a, b *result) int {
		return cmp.Or(cmp.Compare(position[a.Row], position[b.Row]), cmp.Compare(b.Disk, a.Disk), // own first
			cmp.Compare(slices.Index(systemOrder, a.System), slices.Index(systemOrder, b.System)))
	})
	return out
}

func find(all []*result, row, system string) *result {
	for _, r := range all {
		if r.Row == row && r.System == system && r.Disk == diskOwn && r.Figures["rate"] > 0 {
			return r
		}
	}
	return nil
}
