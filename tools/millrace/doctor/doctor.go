package doctor

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

// Verdict is how good a finding is.
type Verdict string

// The verdicts.
const (
	Good Verdict = "good"
	Note Verdict = "note" // worth knowing
	Weak Verdict = "weak" // works, but slower or less safe than it could be
	Bad  Verdict = "bad"  // the broker will not work, or not keep its promises
)

// Finding is one thing that was found out.
type Finding struct {
	Subject string  `json:"subject"`
	Verdict Verdict `json:"verdict"`
	Text    string  `json:"text"`
	Advice  string  `json:"advice,omitempty"` // what to change
}

// Options say what to look at.
type Options struct {
	DataDir   string
	Addresses []string      // that the broker will listen on
	Peers     []string      // cluster ports of other nodes
	Budgets   int64         // bytes of memory that the broker will take beside Go's heap
	Measure   time.Duration // how long each flush measurement takes; 0: none
}

// Examine runs every check.
func Examine(ctx context.Context, o Options) []Finding {
	var all []Finding
	for _, check := range []func(context.Context, Options) []Finding{
		kernelCheck, uringCheck, processorCheck, memoryCheck, limitsCheck, fileSystemCheck, deviceCheck, flushCheck, networkCheck, peersCheck,
	} {
		if ctx.Err() != nil {
			break
		}
		all = append(all, check(ctx, o)...)
	}
	return all
}

// Worst is the worst verdict among findings.
func Worst(findings []Finding) Verdict {
	order := map[Verdict]int{Good: 0, Note: 1, Weak: 2, Bad: 3}
	worst := Good
	for _, f := range findings {
		if order[f.Verdict] > order[worst] {
			worst = f.Verdict
		}
	}
	return worst
}

// Write prints findings for people.
func Write(w io.Writer, findings []Finding) error {
	var b strings.Builder
	marks := map[Verdict]string{Good: "ok  ", Note: "note", Weak: "WEAK", Bad: "BAD "}
	for _, f := range findings {
		fmt.Fprintf(&b, "%s  %-12s %s\n", marks[f.Verdict], f.Subject, f.Text)
		if f.Advice != "" {
			fmt.Fprintf(&b, "%20s-> %s\n", "", f.Advice)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func good(subject, format string, args ...any) Finding {
	return Finding{Subject: subject, Verdict: Good, Text: fmt.Sprintf(format, args...)}
}

func note(subject, text, advice string) Finding { return Finding{subject, Note, text, advice} }
func weak(subject, text, advice string) Finding { return Finding{subject, Weak, text, advice} }
func bad(subject, text, advice string) Finding  { return Finding{subject, Bad, text, advice} }
