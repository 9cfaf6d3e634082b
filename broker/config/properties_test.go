package config

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestPropertiesAreReadAsJavaReadsThem(t *testing.T) {
	for _, c := range []struct{ text, key, value string }{
		{"a=b", "a", "b"},
		{"a = b ", "a", "b"},
		{"a: b", "a", "b"},
		{"a b", "a", "b"},
		{"  a\t=\tb=c", "a", "b=c"},
		{"a", "a", ""},
		{"a=", "a", ""},
		{"a\\=b=c", "a=b", "c"},
		{"a=b\\\n   c", "a", "bc"},
		{"a=b\\\\", "a", "b\\"},
		{"# no\n! no\n\na=\\u0041\\tx", "a", "A\tx"},
		{"a=\\ud83d\\ude00", "a", "\U0001f600"},
		{"\ufeffa=b\r\n", "a", "b"},
		{"a=C:\\\\data", "a", "C:\\data"},
	} {
		got, err := readProperties(strings.NewReader(c.text), "f")
		if err != nil || len(got) != 1 || got[0].key != c.key || got[0].value != c.value {
			t.Errorf("%q: %+v, %v; want %q=%q", c.text, got, err, c.key, c.value)
		}
	}
	for _, text := range []string{"a=\\u12", "=b", "a=b\\", "a=\xff"} {
		if got, err := readProperties(strings.NewReader(text), "f"); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}

func TestFileReportsEveryMistakeWithItsLine(t *testing.T) {
	_, err := Parse(strings.NewReader("num.partition=3\nlog.segment.bytes=many\nssl.keystore.location=/k\nnum.partitions=2\nretention.ms=4\n"), "server.properties")
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"server.properties:1: Unknown setting num.partition: did you mean num.partitions?",
		"server.properties:2: Invalid value many for configuration log.segment.bytes",
		"server.properties:3: ssl.keystore.location is a setting of Kafka that Millrace does not honour",
		"server.properties:5: Unknown setting retention.ms: it is a setting of topics",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in:\n%v", want, err)
		}
	}
}

func TestFileLastLineOfAKeyWins(t *testing.T) {
	f, err := Parse(strings.NewReader("num.partitions=2\nnum.partitions=3\n"), "f")
	if err != nil || f.Values["num.partitions"] != "3" || len(f.Warnings) != 1 {
		t.Errorf("%+v, %v", f, err)
	}
}

// Kafka's own sample file, its settings only: somebody who tries Millrace may
// well start with it.
const kraftSample = `
process.roles=broker,controller
node.id=1
controller.quorum.bootstrap.servers=localhost:9093
listeners=PLAINTEXT://:9092,CONTROLLER://:9093
inter.broker.listener.name=PLAINTEXT
advertised.listeners=PLAINTEXT://localhost:9092,CONTROLLER://localhost:9093
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL
num.network.threads=3
num.io.threads=8
socket.send.buffer.bytes=102400
socket.receive.buffer.bytes=102400
socket.request.max.bytes=104857600
log.dirs=/tmp/kraft-combined-logs
num.partitions=1
num.recovery.threads.per.data.dir=1
offsets.topic.replication.factor=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
#log.flush.interval.messages=10000
log.retention.hours=168
#log.retention.bytes=1073741824
log.segment.bytes=1073741824
log.retention.check.interval.ms=300000
`

func TestKafkasSampleFileStartsWithWarnings(t *testing.T) {
	f, err := Parse(strings.NewReader(kraftSample), "server.properties")
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(f.Values)
	if err != nil {
		t.Fatal(err)
	}
	l, _ := b.Listeners()
	a, _ := b.AdvertisedListeners()
	if len(l) != 1 || l[0].Address() != ":9092" || len(a) != 1 || a[0].Address() != "localhost:9092" || b.DataDir() != "/tmp/kraft-combined-logs" {
		t.Errorf("%v, %v, %s", l, a, b.DataDir())
	}
	if len(f.Warnings) < 8 {
		t.Errorf("warnings: %s", strings.Join(f.Warnings, "\n"))
	}
}

func TestRefusedSettingsSwitchedOffAreHarmless(t *testing.T) {
	f, err := Parse(strings.NewReader("remote.log.storage.system.enable=false\nauthorizer.class.name=\n"), "f")
	if err != nil || len(f.Warnings) != 2 {
		t.Errorf("%+v, %v", f, err)
	}
	if _, err := Parse(strings.NewReader("remote.log.storage.system.enable=true\n"), "f"); err == nil {
		t.Error("tiered storage was switched on")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(kraftSample))
	f.Add([]byte("a\\u0041\\\n=b\\"))
	f.Add([]byte("num.partitions=2\nlisteners=PLAINTEXT://[::1]:0,A://:1"))
	f.Add([]byte("leader.replication.throttled.replicas=*\nlog.cleanup.policy=,,compact"))
	f.Fuzz(func(t *testing.T, text []byte) {
		file, err := Parse(bytes.NewReader(text), "f")
		if err != nil {
			return
		}
		b, err := New(file.Values)
		if err != nil {
			return
		}
		// What was taken reads the same again in its canonical form.
		again, err := New(b.static)
		if err != nil || !maps.Equal(again.static, b.static) {
			t.Fatalf("%q: canonical form %v is read as %v, %v", text, b.static, again.static, err)
		}
		_ = slices.Collect(maps.Keys(b.static))
		b.DescribeBroker(nil)
		b.DescribeTopic(nil, nil)
		b.Sizes(Machine{})
	})
}
