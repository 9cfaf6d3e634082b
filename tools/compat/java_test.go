package compat

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const javaRun = 4 * time.Minute

func TestJavaClient(t *testing.T) {
	args := java(t)
	broker := Broker(t)
	source, err := filepath.Abs("java/Compat.java")
	if err != nil {
		t.Fatal(err)
	}
	// The compiler wants the class path for itself, too: a source file launch passes it on.
	t.Log("\n" + Run(t, javaRun, nil, "", "java", append(args, source, broker)...))
}

// tool runs one of Kafka's own programs.
type tool struct {
	t      *testing.T
	java   []string
	broker string
}

func (k tool) run(stdin, class string, args ...string) string {
	k.t.Helper()
	return Run(k.t, javaRun, strings.NewReader(stdin), "", "java", append(append(append([]string{}, k.java...), class), args...)...)
}

func (k tool) try(class string, args ...string) (string, error) {
	k.t.Helper()
	return Try(k.t.Context(), javaRun, nil, "", "java", append(append(append([]string{}, k.java...), class), args...)...)
}

func (k tool) want(out, text string) {
	k.t.Helper()
	if !strings.Contains(out, text) {
		k.t.Errorf("%q is not in:\n%s", text, out)
	}
}

func TestKafkaConsoleTools(t *testing.T) {
	args := java(t)
	k := tool{t, args, Broker(t, fastGroups...)}
	topic := Topic("tools")
	const (
		topics    = "org.apache.kafka.tools.TopicCommand"
		groups    = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
		configs   = "kafka.admin.ConfigCommand"
		produce   = "org.apache.kafka.tools.ConsoleProducer"
		consume   = "org.apache.kafka.tools.consumer.ConsoleConsumer"
		offsets   = "org.apache.kafka.tools.GetOffsetShell"
		deleteRec = "org.apache.kafka.tools.DeleteRecordsCommand"
		logDirs   = "org.apache.kafka.tools.LogDirsCommand"
		versions  = "org.apache.kafka.tools.BrokerApiVersionsCommand"
		perf      = "org.apache.kafka.tools.ProducerPerformance"
		consPerf  = "org.apache.kafka.tools.ConsumerPerformance"
	)
	server := []string{"--bootstrap-server", k.broker}
	with := func(args ...string) []string { return append(append([]string{}, server...), args...) }

	k.want(k.run("", versions, server...), "Produce(0)")
	k.want(k.run("", topics, with("--create", "--topic", topic, "--partitions", "2", "--config", "retention.ms=100000")...), "Created topic")
	out := k.run("", topics, with("--describe", "--topic", topic)...)
	k.want(out, "PartitionCount: 2")
	k.want(out, "retention.ms=100000")
	k.run("", topics, with("--alter", "--topic", topic, "--partitions", "3")...)
	k.want(k.run("", topics, with("--list")...), topic)

	k.run("", configs, with("--alter", "--entity-type", "topics", "--entity-name", topic, "--add-config", "segment.bytes=1048576")...)
	k.want(k.run("", configs, with("--describe", "--entity-type", "topics", "--entity-name", topic)...), "segment.bytes=1048576")
	k.run("", configs, with("--alter", "--entity-type", "topics", "--entity-name", topic, "--delete-config", "segment.bytes")...)
	k.want(k.run("", configs, with("--describe", "--entity-type", "brokers", "--entity-name", "1", "--all")...), "log.retention.ms")

	k.run("k1:a\nk2:b\nk3:c\n", produce, with("--topic", topic, "--reader-property", "parse.key=true", "--reader-property", "key.separator=:")...)
	group := Topic("group")
	out = k.run("", consume, with("--topic", topic, "--from-beginning", "--max-messages", "3", "--group", group, "--timeout-ms", "30000")...)
	for _, v := range []string{"a\n", "b\n", "c\n"} {
		k.want(out, v)
	}
	k.want(k.run("", groups, with("--list")...), group)
	k.want(k.run("", groups, with("--describe", "--group", group)...), topic)
	k.want(k.run("", groups, with("--describe", "--group", group, "--state")...), "Empty")
	k.run("", groups, with("--reset-offsets", "--group", group, "--topic", topic, "--to-earliest", "--execute")...)
	k.want(k.run("", groups, with("--delete", "--group", group)...), "successful")

	k.want(k.run("", offsets, with("--topic", topic)...), topic+":0:")
	k.want(k.run("", perf, "--topic", topic, "--num-records", "50000", "--record-size", "100", "--throughput", "-1", "--bootstrap-server", k.broker), "50000 records sent")
	k.want(k.run("", consPerf, with("--topic", topic, "--num-records", "50000", "--timeout", "30000")...), "MB.sec")
	file := filepath.Join(t.TempDir(), "delete.json")
	if err := os.WriteFile(file, fmt.Appendf(nil, `{"partitions":[{"topic":%q,"partition":0,"offset":1}],"version":1}`, topic), 0o644); err != nil {
		t.Fatal(err)
	}
	k.want(k.run("", deleteRec, with("--offset-json-file", file)...), "low_watermark: 1")
	k.want(k.run("", logDirs, with("--describe", "--topic-list", topic)...), topic+"-0")
	k.run("", topics, with("--delete", "--topic", topic)...)
	if out, err := k.try(topics, with("--describe", "--topic", topic)...); err == nil {
		t.Errorf("a deleted topic is described: %s", out)
	}
}

func TestKafkaVerifiableProducerAndConsumer(t *testing.T) {
	args := java(t)
	k := tool{t, args, Broker(t, fastGroups...)}
	topic := Topic("verifiable")
	k.run("", "org.apache.kafka.tools.TopicCommand", "--bootstrap-server", k.broker, "--create", "--topic", topic, "--partitions", "3")
	out := k.run("", "org.apache.kafka.tools.VerifiableProducer", "--bootstrap-server", k.broker, "--topic", topic, "--max-messages", "5000", "--acks", "-1")
	k.want(out, `"acked":5000`)
	consumer := exec.CommandContext(t.Context(), "java", append(append([]string{}, args...), "org.apache.kafka.tools.VerifiableConsumer", "--bootstrap-server", k.broker, "--topic", topic,
		"--group-id", Topic("group"), "--max-messages", "5000", "--reset-policy", "earliest")...)
	text, err := consumer.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, tail(text, 4<<10))
	}
	k.want(string(text), `"name":"offsets_committed"`)
	if strings.Contains(string(text), `"success":false`) {
		t.Errorf("a commit failed:\n%s", tail(text, 4<<10))
	}
}
