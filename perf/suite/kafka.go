package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// kafkaProperties is a broker and its controller in one process, on this machine only. Its arguments are the node's
// number, the voters, the client's and the controller's address, the directory, the replicas of internal topics, and
// how many of those must be in sync.
const kafkaProperties = `process.roles=broker,controller
node.id=%[1]d
controller.quorum.voters=%[2]s
listeners=PLAINTEXT://%[3]s,CONTROLLER://%[4]s
advertised.listeners=PLAINTEXT://%[3]s
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs=%[5]s
offsets.topic.replication.factor=%[6]d
transaction.state.log.replication.factor=%[6]d
transaction.state.log.min.isr=%[7]d
group.initial.rebalance.delay.ms=0
`

// prepareKafka formats the directories and says how Apache Kafka is started from a directory with its jars in libs/.
// The heap of 1 GB each is Kafka's own default and lets three nodes fit beside their page cache.
func (s *suite) prepareKafka(ctx context.Context, srv *server) error {
	controllers, err := freePorts(len(srv.nodes))
	if err != nil {
		return err
	}
	var voters []string
	for i, n := range srv.nodes {
		voters = append(voters, strconv.Itoa(int(n.id))+"@"+controllers[i])
	}
	java := []string{
		"-Xms1G", "-Xmx1G", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35",
		"-XX:+ExplicitGCInvokesConcurrent", "-Djava.awt.headless=true", "-cp", filepath.Join(s.opts.kafka, "libs") + "/*",
	}
	for i, n := range srv.nodes {
		text := fmt.Sprintf(kafkaProperties, n.id, strings.Join(voters, ","), n.addr, controllers[i], filepath.Join(n.dir, "logs"),
			len(srv.nodes), len(srv.nodes)/2+1)
		if single(srv.system) == sysKafka2 {
			text += "log.flush.interval.messages=1\n"
		}
		config := filepath.Join(n.dir, "server.properties")
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			return err
		}
		format := append(append([]string{}, java...), "kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "-c", config)
		if out, err := output(ctx, "java", format...); err != nil {
			return fmt.Errorf("format: %w: %s", err, strings.TrimSpace(out))
		}
		n.name, n.path, n.args = "kafka", "java", append(append([]string{}, java...), "kafka.Kafka", config)
	}
	return nil
}
