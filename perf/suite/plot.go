package main

import (
	"bytes"
	"fmt"
	"html"
	"os"
	"path/filepath"
	"strings"
)

// The shape of the plots: bars from left to right, a row each.
const (
	plotWidth  = 960
	plotLeft   = 210
	plotRight  = 130
	plotBar    = 15
	plotHeader = 46
)

// bar is one line of a plot.
type bar struct {
	label string
	value float64
	text  string
	mark  float64 // a limit, drawn as a line across; 0: none
	color string
}

var systemColors = map[string]string{
	sysNull: "#b8b8b8", sysNullFlush: "#8c8c8c", sysD1: "#7fb3e0", sysD2: "#1f6fb2", sysKafka1: "#e0a87f", sysKafka2: "#c2571a",
	sysD2x3: "#134a78", sysKafka1x3: "#d08a55", sysKafka2x3: "#8a3a0c",
}

// plots draws what the run has found.
func (s *suite) plots(rows []*result) error {
	for _, p := range []struct {
		file, title string
		pick        func(r *result) (bar, bool)
	}{
		{"throughput.svg", "messages a second (line: the limit of the same run)", func(r *result) (bar, bool) {
			b := bar{value: r.get("rate"), text: grouped(r.get("rate"))}
			if r.get("ratio") > 0 && r.get("rate") > 0 && r.get("limit") > 0 {
				b.mark = r.get("rate") / r.get("ratio")
			}
			return b, r.get("rate") > 0 && smallRow(r.Row)
		}},
		{"bandwidth.svg", "MB/s of large batches (line: the limit of the same run)", func(r *result) (bar, bool) {
			b := bar{value: r.get("mb"), text: fmt.Sprintf("%.0f", r.get("mb"))}
			if r.Limit == limitHalfDevice || r.Limit == limitDeviceSixth {
				b.mark = r.get("limit")
			}
			return b, r.get("mb") > 0 && !smallRow(r.Row) && r.get("e2e_p99") == 0
		}},
		{"cpu.svg", "processor seconds of the broker for a GB of large batches", func(r *result) (bar, bool) {
			return bar{value: r.get("cpu_per_gb"), text: fmt.Sprintf("%.2f", r.get("cpu_per_gb"))}, r.get("cpu_per_gb") > 0 && !smallRow(r.Row)
		}},
		{"cpu-message.svg", "processor microseconds of the broker for a message", func(r *result) (bar, bool) {
			return bar{value: r.get("us_per_msg"), text: fmt.Sprintf("%.2f", r.get("us_per_msg"))}, r.get("us_per_msg") > 0 && smallRow(r.Row)
		}},
	} {
		var bars []bar
		for _, r := range rows {
			if b, ok := p.pick(r); ok {
				b.label, b.color = r.Row+"  "+r.System, systemColors[r.System]
				if r.Disk != diskOwn {
					b.label += " " + r.Disk
				}
				bars = append(bars, b)
			}
		}
		if len(bars) == 0 {
			continue
		}
		if err := os.WriteFile(filepath.Join(s.opts.out, p.file), drawBars(p.title, bars), 0o644); err != nil {
			return err
		}
	}
	return s.plotLatency(rows)
}

// smallRow tells rows whose figure is messages from those whose figure is bytes.
func smallRow(row string) bool {
	row = strings.TrimPrefix(row, "W7-")
	switch {
	case row == "W4-keyed", row[:2] == "W1", row[:2] == "W2", row[:2] == "S1":
		return true
	}
	return false
}

func drawBars(title string, bars []bar) []byte {
	most := 0.0
	for _, b := range bars {
		most = max(most, b.value, b.mark)
	}
	scale := (plotWidth - plotLeft - plotRight) / most
	var out bytes.Buffer
	height := plotHeader + len(bars)*(plotBar+4) + 10
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", plotWidth, height)
	fmt.Fprintf(&out, `<rect width="100%%" height="100%%" fill="white"/><text x="10" y="24" font-size="16">%s</text>`+"\n", html.EscapeString(title))
	for i, b := range bars {
		y := plotHeader + i*(plotBar+4)
		width := b.value * scale
		fmt.Fprintf(&out, `<text x="%d" y="%d" text-anchor="end">%s</text><rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>`,
			plotLeft-8, y+12, html.EscapeString(b.label), plotLeft, y, width, plotBar, b.color)
		end := width
		if b.mark > 0 {
			x := plotLeft + b.mark*scale
			fmt.Fprintf(&out, `<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="black" stroke-width="2"/>`, x, x, y-1, y+plotBar+1)
			end = max(end, b.mark*scale)
		}
		fmt.Fprintf(&out, `<text x="%.1f" y="%d">%s</text>`+"\n", plotLeft+end+6, y+12, html.EscapeString(b.text))
	}
	out.WriteString("</svg>\n")
	return out.Bytes()
}

// plotLatency draws the percentiles of the open loops.
func (s *suite) plotLatency(rows []*result) error {
	var bars []bar
	for _, r := range rows {
		if len(r.Row) < 2 || r.Row[:2] != "OL" {
			continue
		}
		for _, q := range []struct{ name, label string }{{"p50", "p50"}, {"p99", "p99"}, {"p999", "p99.9"}} {
			if v := r.get(q.name); v > 0 {
				bars = append(bars, bar{label: r.Row + "  " + r.System + "  " + q.label, value: v, text: millis(v), color: systemColors[r.System]})
			}
		}
	}
	if len(bars) == 0 {
		return nil
	}
	return os.WriteFile(filepath.Join(s.opts.out, "latency.svg"), drawBars("latency at 50, 70 and 90 % of the highest rate, from the moment a message was due", bars), 0o644)
}
