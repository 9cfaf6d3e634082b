package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"html"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// flame records stacks of a process and draws them: a box is a function, its width its share of the samples, and
// what it called stands above it.
func (p *probes) flame(ctx context.Context, pid int, title string, d time.Duration) ([]byte, error) {
	dir, err := os.MkdirTemp("", "perf-record-*")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // what is left is in a temporary directory
	data := filepath.Join(dir, "perf.data")
	names := symbolsOf(pid)
	record := exec.CommandContext(ctx, p.perf, "record", "-q", "-F", "199", "-g", "-o", data, "-p", strconv.Itoa(pid), "--", "sleep", fmt.Sprintf("%.1f", d.Seconds()))
	if out, err := record.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("perf record: %w: %s", err, bytes.TrimSpace(out))
	}
	script := exec.CommandContext(ctx, p.perf, "script", "-i", data, "-F", "comm,ip,sym")
	out, err := script.Output()
	if err != nil {
		return nil, fmt.Errorf("perf script: %w", err)
	}
	root := foldStacks(out, names)
	if root.samples == 0 {
		return nil, fmt.Errorf("perf recorded no sample of %s", title)
	}
	return drawFlame(root, title), nil
}

// frame is a function in a stack, with what it called.
type frame struct {
	samples int
	callees map[string]*frame
}

func (f *frame) child(name string) *frame {
	if f.callees == nil {
		f.callees = map[string]*frame{}
	}
	c := f.callees[name]
	if c == nil {
		c = &frame{}
		f.callees[name] = c
	}
	return c
}

// foldStacks reads `perf script`: a stack is a line with the thread's name, a line for every function from the
// innermost one outwards, and an empty line.
func foldStacks(script []byte, names *symbols) *frame {
	root := &frame{}
	var stack []string
	thread := ""
	end := func() {
		if thread == "" {
			return
		}
		at := root
		at.samples++
		for i := len(stack) - 1; i >= 0; i-- {
			at = at.child(stack[i])
			at.samples++
		}
		stack, thread = stack[:0], ""
	}
	lines := bufio.NewScanner(bytes.NewReader(script))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.TrimSpace(line) == "":
			end()
		case line[0] != ' ' && line[0] != '\t' || thread == "":
			thread = strings.TrimSpace(line)
		default:
			address, name, _ := strings.Cut(strings.TrimSpace(line), " ")
			if name == "[unknown]" {
				if at, err := strconv.ParseUint(address, 16, 64); err == nil {
					name = cmp.Or(names.find(at), name)
				}
			}
			stack = append(stack, name)
		}
	}
	end()
	return root
}

const (
	flameWidth = 1400.0
	flameRow   = 17
	flameMin   = 0.7 // narrower boxes are left out
)

func drawFlame(root *frame, title string) []byte {
	depth := 0
	var deepest func(f *frame, d int)
	deepest = func(f *frame, d int) {
		depth = max(depth, d)
		for _, c := range f.callees {
			if float64(c.samples)/float64(root.samples)*flameWidth >= flameMin {
				deepest(c, d+1)
			}
		}
	}
	deepest(root, 0)
	height := (depth + 3) * flameRow
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %.0f %d" font-family="monospace" font-size="11">`+"\n", flameWidth, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="#fffdf7"/><text x="6" y="13">%s: %d samples</text>`+"\n", html.EscapeString(title), root.samples)
	var draw func(f *frame, name string, x float64, d int)
	draw = func(f *frame, name string, x float64, d int) {
		width := float64(f.samples) / float64(root.samples) * flameWidth
		if width < flameMin {
			return
		}
		y := height - (d+1)*flameRow
		hue := 0
		for _, c := range name {
			hue = (hue*31 + int(c)) % 55
		}
		share := 100 * float64(f.samples) / float64(root.samples)
		fmt.Fprintf(&b, `<g><title>%s: %.1f %%</title><rect x="%.1f" y="%d" width="%.1f" height="%d" fill="hsl(%d 80%% 68%%)"/>`,
			html.EscapeString(name), share, x, y, width, flameRow-1, hue)
		if chars := int(width / 6.7); chars > 3 {
			if len(name) > chars {
				name = name[:chars-1] + "."
			}
			fmt.Fprintf(&b, `<text x="%.1f" y="%d">%s</text>`, x+2, y+12, html.EscapeString(name))
		}
		b.WriteString("</g>\n")
		for _, callee := range slices.Sorted(maps.Keys(f.callees)) {
			c := f.callees[callee]
			draw(c, callee, x, d+1)
			x += float64(c.samples) / float64(root.samples) * flameWidth
		}
	}
	draw(root, "all", 0, 0)
	b.WriteString("</svg>\n")
	return b.Bytes()
}
