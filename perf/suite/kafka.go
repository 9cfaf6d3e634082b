package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// kafkaProperties is a broker and its controller in one process, on this machine only.
const kafkaProperties = `process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:%[2]d
listeners=PLAINTEXT://127.0.0.1:%[1]d,CONTROLLER://127.0.0.1:%[2]d
advertised.listeners=PLAINTEXT://127.0.0.1:%[1]d
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=%[3]s
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
`

// startKafka formats a directory and starts Apache Kafka from a directory with its jars in libs/.
func (s *suite) startKafka(ctx context.Context, srv *server, port int) error {
	controller, err := freePort()
	if err != nil {
		return err
	}
	text := fmt.Sprintf(kafkaProperties, port, controller, filepath.Join(srv.dir, "logs"))
	if srv.system == sysKafka2 {
		text += "log.flush.interval.messages=1\n"
	}
	config := filepath.Join(srv.dir, "server.properties")
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	java := []string{
		"-Xms1G", "-Xmx1G", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35",
		"-XX:+ExplicitGCInvokesConcurrent", "-Djava.awt.headless=true", "-cp", filepath.Join(s.opts.kafka, "libs") + "/*",
	}
	format := append(append([]string{}, java...), "kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", config)
	if out, err := output(ctx, "java", format...); err != nil {
		return fmt.Errorf("format: %w: %s", err, strings.TrimSpace(out))
	}
	srv.proc, err = launch(ctx, "kafka", nil, "java", append(java, "kafka.Kafka", config)...)
	return err
}
