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
