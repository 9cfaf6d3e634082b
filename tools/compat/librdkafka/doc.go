// Package librdkafka judges the broker with librdkafka through confluent-kafka-go. It needs cgo and a C compiler.
package librdkafka
