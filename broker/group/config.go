package group

import (
	"crypto/rand"
	"fmt"
	"math"
	"time"
)

// Config holds the group settings, under Kafka's names.
type Config struct {
	MinSessionTimeout     time.Duration // group.min.session.timeout.ms
	MaxSessionTimeout     time.Duration // group.max.session.timeout.ms
	InitialRebalanceDelay time.Duration // group.initial.rebalance.delay.ms
	MaxSize               int           // group.max.size

	// NewMemberJoinTimeout bounds how long a member that has never been in a
	// generation may wait in a join: it has no id that it could heartbeat with.
	NewMemberJoinTimeout time.Duration

	OffsetsRetention     time.Duration // offsets.retention.minutes
	OffsetsCheckInterval time.Duration // offsets.retention.check.interval.ms
	MetadataBytesMax     int           // offset.metadata.max.bytes, counted like Kafka in UTF-16 units

	// PendingMembersMax bounds the members of one group that were given an id
	// (KIP-394) and have not come back with it yet. Kafka has no such bound.
	PendingMembersMax int

	// TopicID tells the id that a topic has now, zero if it does not exist. With it an
	// offset counts only for the topic that it was committed for, and not for a later
	// one of the same name. Nil: offsets go by name alone.
	TopicID func(topic string) [16]byte

	// NewMemberUUID makes the random part of a member id; tests replace it.
	NewMemberUUID func() string
}

// DefaultConfig returns Kafka's defaults.
func DefaultConfig() Config {
	return Config{
		MinSessionTimeout:     6 * time.Second,
		MaxSessionTimeout:     30 * time.Minute,
		InitialRebalanceDelay: 3 * time.Second,
		MaxSize:               math.MaxInt32,
		NewMemberJoinTimeout:  5 * time.Minute,
		OffsetsRetention:      7 * 24 * time.Hour,
		OffsetsCheckInterval:  10 * time.Minute,
		MetadataBytesMax:      4096,
		PendingMembersMax:     10_000,
		NewMemberUUID:         randomUUID,
	}
}

// withDefaults fills what was left zero. A zero InitialRebalanceDelay is a
// setting of its own and stays.
func (c Config) withDefaults() Config {
	d := DefaultConfig()
	for _, f := range []struct {
		have *time.Duration
		def  time.Duration
	}{
		{&c.MinSessionTimeout, d.MinSessionTimeout},
		{&c.MaxSessionTimeout, d.MaxSessionTimeout},
		{&c.NewMemberJoinTimeout, d.NewMemberJoinTimeout},
		{&c.OffsetsRetention, d.OffsetsRetention},
		{&c.OffsetsCheckInterval, d.OffsetsCheckInterval},
	} {
		if *f.have <= 0 {
			*f.have = f.def
		}
	}
	for _, f := range []struct{ have, def *int }{
		{&c.MaxSize, &d.MaxSize},
		{&c.MetadataBytesMax, &d.MetadataBytesMax},
		{&c.PendingMembersMax, &d.PendingMembersMax},
	} {
		if *f.have <= 0 {
			*f.have = *f.def
		}
	}
	if c.TopicID == nil {
		c.TopicID = func(string) [16]byte { return [16]byte{} }
	}
	if c.NewMemberUUID == nil {
		c.NewMemberUUID = d.NewMemberUUID
	}
	return c
}

// randomUUID is a version 4 UUID in its usual text form.
func randomUUID() string {
	var u [16]byte
	_, _ = rand.Read(u[:]) // never fails (crypto/rand)
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}
