// Package config knows every setting: Kafka's broker and topic settings that
// Millrace honours, Millrace's own, and Kafka's that it does not.
//
//	server.properties --Parse--> map --NewBroker--> *Broker (immutable snapshots)
//	metadata (raft)   --SetDynamic------------------^   |
//	topic overrides   --------------------------------> Topic, DescribeTopic, EngineConfig
//
// The settings are tables (table_topic.go, table_broker.go, table_millrace.go):
// one row each, with type, default, valid values, whether it can be changed
// while the broker runs, and its documentation. What a setting is called in
// Kafka, it is called here. unsupported.go has the names of Kafka that we know
// and do not honour, with what to tell somebody who sets them.
//
// A topic setting takes the first value found in: the topic's own overrides;
// for each of its broker synonyms in order: the dynamic value of this broker,
// the dynamic default of the cluster, the file or command line; the default.
// That is Kafka's order, and DescribeConfigs shows the whole chain.
//
// Threads: the tables are read only. A Broker may be used from any goroutine;
// SetDynamic swaps one pointer. Nothing here does I/O or knows a clock.
package config
