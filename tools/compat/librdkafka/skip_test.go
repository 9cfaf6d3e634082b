//go:build !cgo

package librdkafka

import "testing"

func TestLibrdkafka(t *testing.T) {
	t.Skip("SKIPPED: confluent-kafka-go needs cgo and a C compiler")
}
