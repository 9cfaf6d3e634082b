package compat

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const shortRun = 60 * time.Second

func TestKcatProducesAndConsumesWithEveryCodec(t *testing.T) {
	need(t, "kcat")
	broker := Broker(t)
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		for _, idempotent := range []string{"false", "true"} {
			t.Run(codec+"/idempotent="+idempotent, func(t *testing.T) {
				topic := Topic("kcat")
				var in strings.Builder
				for i := range 1000 {
					fmt.Fprintf(&in, "key%d:value %d %s\n", i, i, strings.Repeat("x", i%100))
				}
				Run(t, shortRun, strings.NewReader(in.String()), "", "kcat", "-P", "-b", broker, "-t", topic, "-K:", "-p0", "-z", codec,
					"-X", "enable.idempotence="+idempotent)
				if out := Run(t, shortRun, nil, "", "kcat", "-C", "-q", "-b", broker, "-t", topic, "-K:", "-o", "beginning", "-e", "-X", "check.crcs=true"); out != in.String() {
					t.Errorf("%d bytes went in, %d came out", in.Len(), len(out))
				}
			})
		}
	}
}

func TestKcatListsQueriesOffsetsAndJoinsAGroup(t *testing.T) {
	need(t, "kcat")
	broker, topic := Broker(t), Topic("kcat")
	Run(t, shortRun, strings.NewReader("a\nb\nc\n"), "", "kcat", "-P", "-b", broker, "-t", topic, "-p0")
	if out := Run(t, shortRun, nil, "", "kcat", "-L", "-b", broker, "-t", topic); !strings.Contains(out, "partition 0, leader") {
		t.Errorf("metadata: %s", out)
	}
	for at, want := range map[string]string{"-1": "offset 3", "-2": "offset 0", "1": "offset 0"} {
		if out := Run(t, shortRun, nil, "", "kcat", "-Q", "-b", broker, "-t", topic+":0:"+at); !strings.Contains(out, want) {
			t.Errorf("offset for %s: %s, want %s", at, out, want)
		}
	}
	if out := Run(t, shortRun, nil, "", "kcat", "-C", "-q", "-b", broker, "-t", topic, "-p0", "-o", "-1", "-e"); out != "c\n" {
		t.Errorf("the last record is %q", out)
	}
	out := Run(t, shortRun, nil, "", "kcat", "-b", broker, "-q", "-X", "auto.offset.reset=earliest", "-X", "session.timeout.ms=6000", "-e", "-G", Topic("group"), topic)
	if out != "a\nb\nc\n" {
		t.Errorf("the group read %q", out)
	}
	if out, err := Try(t.Context(), shortRun, strings.NewReader(strings.Repeat("x", 2_000_000)), "", "kcat", "-P", "-b", broker, "-t", topic, "-p0", "-X", "message.max.bytes=5000000"); err == nil ||
		!strings.Contains(out, "too large") {
		t.Errorf("a record of 2 MB: %v, %s", err, out)
	}
}

func TestKcatHeadersTombstonesAndTimes(t *testing.T) {
	need(t, "kcat")
	broker, topic := Broker(t, fastGroups...), Topic("kcat")
	kcat := func(stdin string, args ...string) string {
		t.Helper()
		return Run(t, shortRun, strings.NewReader(stdin), "", "kcat", append([]string{"-b", broker, "-t", topic}, args...)...)
	}
	kcat("a:1\nb:2\n", "-P", "-p0", "-K:", "-H", "one=1", "-H", "two=zwei")
	kcat("a:\n", "-P", "-p0", "-K:", "-Z") // an empty value is a tombstone
	kcat("", "-P", "-p0", "-k", "nothing", "-Z", "/dev/null")
	format := []string{"-C", "-q", "-e", "-p0", "-f", "%o %k %S %s %h\n"}
	if out, want := kcat("", append(format, "-o", "beginning")...), "0 a 1 1 one=1,two=zwei\n1 b 1 2 one=1,two=zwei\n2 a -1  \n"; !strings.HasPrefix(out, want) {
		t.Errorf("%q, want %q", out, want)
	}
	// From a time on, and up to one.
	time.Sleep(5 * time.Millisecond)
	now := time.Now().UnixMilli()
	kcat("late:1\n", "-P", "-p0", "-K:")
	if out := kcat("", append(format, "-o", fmt.Sprintf("s@%d", now))...); strings.Count(out, "\n") != 1 || !strings.Contains(out, "late") {
		t.Errorf("from %d: %q", now, out)
	}
	if out := kcat("", append(format, "-o", "beginning", "-o", fmt.Sprintf("e@%d", now))...); strings.Contains(out, "late") || !strings.HasPrefix(out, "0 a") {
		t.Errorf("up to %d: %q", now, out)
	}
	if out := kcat("", "-C", "-q", "-e", "-J", "-o", "beginning", "-c1"); !strings.Contains(out, `"headers":["one","1","two","zwei"]`) {
		t.Errorf("JSON: %s", out)
	}
	if out := Run(t, shortRun, nil, "", "kcat", "-b", broker, "-L", "-J"); !strings.Contains(out, `"topic":"`+topic+`"`) {
		t.Errorf("metadata: %s", out)
	}
	if out := kcat("", "-Q", "-t", fmt.Sprintf("%s:0:%d", topic, now)); !strings.Contains(out, "offset ") {
		t.Errorf("query: %s", out)
	}
	// Two members of a group: together they read everything once.
	wide := Topic("wide")
	if out, err := Try(t.Context(), shortRun, nil, "", "kcat", "-L", "-b", broker, "-t", wide); err != nil {
		t.Errorf("%v %s", err, out)
	}
	var in strings.Builder
	for i := range 3000 {
		fmt.Fprintf(&in, "%d\n", i)
	}
	Run(t, shortRun, strings.NewReader(in.String()), "", "kcat", "-P", "-b", broker, "-t", wide, "-X", "acks=1", "-X", "compression.codec=lz4")
	group := Topic("group")
	for range 2 { // the second goes on where the first stopped
		out := Run(t, shortRun, nil, "", "kcat", "-b", broker, "-q", "-c", "1500", "-X", "auto.offset.reset=earliest", "-X", "session.timeout.ms=6000", "-G", group, wide)
		if n := strings.Count(out, "\n"); n != 1500 {
			t.Errorf("%d records", n)
		}
		in.WriteString(out)
	}
	seen := map[string]int{}
	for line := range strings.Lines(in.String()) {
		seen[line]++
	}
	for i := range 3000 {
		if seen[fmt.Sprintf("%d\n", i)] != 2 {
			t.Fatalf("record %d was read %d times", i, seen[fmt.Sprintf("%d\n", i)]-1)
		}
	}
}
