package group

import (
	"bytes"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// protocol is one assignor that a member offers, with its subscription.
type protocol struct {
	name     string
	metadata []byte
}

// member is one member of a group.
type member struct {
	id         string
	instanceID *string // set: a static member (KIP-345)
	client     Client

	rebalanceTimeoutMs int32
	sessionTimeoutMs   int32
	protocols          []protocol // by preference
	assignment         []byte

	join *waiting // the JoinGroup that waits for the generation to begin
	sync *waiting // the SyncGroup that waits for the leader's assignment

	// fresh: was never part of a generation. Its heartbeat timer then bounds the
	// join itself.
	fresh   bool
	session *timer
}

// waiting is a request whose reply comes later.
type waiting struct {
	token   any
	version int16
	gone    bool // its client hung up: it still counts, but nobody is answered
}

func (m *member) static() bool { return m.instanceID != nil }

// alive says whether a session that ran out means nothing, since the member waits
// for us and not we for it.
func (m *member) alive() bool {
	return !m.fresh && (m.join != nil || m.sync != nil)
}

func (m *member) sessionTimeout() time.Duration { return millis(m.sessionTimeoutMs) }

// metadata is what the member said for a protocol; false if it does not know it.
func (m *member) metadata(name string) ([]byte, bool) {
	for i := range m.protocols {
		if m.protocols[i].name == name {
			return m.protocols[i].metadata, true
		}
	}
	return nil, false
}

// offers says whether a join repeats exactly what the member has said before.
func (m *member) offers(protocols []protocol) bool {
	return slices.EqualFunc(m.protocols, protocols, func(a, b protocol) bool {
		return a.name == b.name && bytes.Equal(a.metadata, b.metadata)
	})
}

// protocolsOf copies the protocols of a request. As in Kafka, where they are a set,
// a name that comes twice counts once.
func protocolsOf(req *kmsg.JoinGroupRequest) []protocol {
	protocols := make([]protocol, 0, len(req.Protocols))
	for i := range req.Protocols {
		p := &req.Protocols[i]
		if slices.ContainsFunc(protocols, func(q protocol) bool { return q.name == p.Name }) {
			continue
		}
		protocols = append(protocols, protocol{p.Name, bytes.Clone(p.Metadata)})
	}
	return protocols
}

func millis(n int32) time.Duration { return time.Duration(n) * time.Millisecond }
