// Package compat drives Kafka clients that nobody here wrote against the real binary: franz-go's own broker tests,
// sarama, kafka-go, librdkafka (Go, Python, kcat), kafka-python, kafkajs, the Java client and Kafka's console tools.
//
// It is a module of its own, so that its dependencies stay out of the broker's go.mod. `make compat` runs it.
// Each test starts a broker of its own on a temporary directory. A client that is not on the machine is installed
// into the user's cache directory; where that cannot be done, its test is skipped with the reason.
//
//	MILLRACE_BIN            the binary (default: built from the tree)
//	MILLRACE_COMPAT_BROKER  host:port of a running broker to judge instead, such as an Apache Kafka
package compat
