package main

import (
	"slices"
	"testing"
)

func TestUnknownVariablesAreNamedWithTheNearestKnownOne(t *testing.T) {
	got := unknownVariables(newRootCommand(), []string{
		"HOME=/root", "KAFKA_PORT=1", "MILLRACE=1", // not ours
		"MILLRACE_KAFKA_PORT=9092", "MILLRACE_CONFIG=/etc/x", // the server's
		"MILLRACE_BOOTSTRAP_SERVERS=a:1", "MILLRACE_TIMEOUT=3s", // the clients', in the shell of a container
		"MILLRACE_EMPTY=", // unset in all but name
		// what Kubernetes sets for services named millrace and millrace-0
		"MILLRACE_SERVICE_HOST=10.0.0.1", "MILLRACE_SERVICE_PORT=9092", "MILLRACE_SERVICE_PORT_KAFKA=9092",
		"MILLRACE_PORT=tcp://10.0.0.1:9092", "MILLRACE_PORT_9092_TCP=tcp://10.0.0.1:9092",
		"MILLRACE_0_PORT_9092_TCP_ADDR=10.0.0.1", "MILLRACE_0_PORT_9092_TCP_PROTO=tcp",
		// these do nothing
		"MILLRACE_KAFKA_PROT=1=2", "MILLRACE_DATADIR=/data", "MILLRACE_BIN=/bin/millrace",
	})
	want := []string{
		"environment variable MILLRACE_BIN is not a setting and does nothing",
		"environment variable MILLRACE_DATADIR is not a setting and does nothing; did you mean MILLRACE_DATA_DIR?",
		"environment variable MILLRACE_KAFKA_PROT is not a setting and does nothing; did you mean MILLRACE_KAFKA_PORT?",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}
