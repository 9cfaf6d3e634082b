package compat

import "testing"

// pythonPackages are everything that the Python tests import; the codecs are kafka-python's.
var pythonPackages = []string{"kafka-python", "confluent-kafka", "python-snappy", "lz4", "zstandard", "crc32c"}

func TestKafkaPython(t *testing.T) {
	interpreter := python(t, pythonPackages...)
	t.Log("\n" + Run(t, javaRun, nil, "", interpreter, "python/kafka_python.py", Broker(t)))
}

func TestConfluentKafkaPython(t *testing.T) {
	interpreter := python(t, pythonPackages...)
	t.Log("\n" + Run(t, javaRun, nil, "", interpreter, "python/confluent.py", Broker(t, fastGroups...)))
}
