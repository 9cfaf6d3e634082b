package transport

import "fmt"

// RefusalCode says why a handshake ended. The numbers are on the wire.
type RefusalCode uint16

// Why a connection is refused.
const (
	RefusedNot       RefusalCode = 0
	RefusedVersion   RefusalCode = 1  // no wire version in common
	RefusedCluster   RefusalCode = 2  // another cluster id
	RefusedNode      RefusalCode = 3  // the node asked for is not the one that answers
	RefusedDirectory RefusalCode = 4  // a known replica with another data directory: it was wiped
	RefusedRemoved   RefusalCode = 5  // the replica was removed from the cluster
	RefusedMembers   RefusalCode = 6  // the two were told different lists of first members
	RefusedSecret    RefusalCode = 7  // the cluster secrets differ, or one side has none
	RefusedKind      RefusalCode = 8  // nobody is registered for this kind of stream
	RefusedUnknown   RefusalCode = 9  // the replica is no member of this cluster
	RefusedBusy      RefusalCode = 10 // too many connections
	RefusedSelf      RefusalCode = 11 // a node called itself
	RefusedClosing   RefusalCode = 12
)

var refusalNames = [...]string{
	"not refused", "no wire version in common", "another cluster", "another node answers at this address",
	"a known replica with another data directory", "the replica was removed from the cluster",
	"the lists of bootstrap members differ", "the cluster secrets differ", "kind of stream not served",
	"not a member of this cluster", "too many connections", "a node called itself", "shutting down",
}

func (c RefusalCode) String() string {
	if int(c) < len(refusalNames) {
		return refusalNames[c]
	}
	return fmt.Sprintf("refusal %d", uint16(c))
}

// Refusal is the error of a handshake that one side refused.
type Refusal struct {
	Code   RefusalCode
	Detail string
	// ByPeer: the other side refused us.
	ByPeer bool
}

// Refuse makes a refusal for Options.Admit.
func Refuse(code RefusalCode, format string, args ...any) *Refusal {
	return &Refusal{Code: code, Detail: fmt.Sprintf(format, args...)}
}

func (r *Refusal) Error() string {
	who := "refused"
	if r.ByPeer {
		who = "refused by the peer"
	}
	if r.Detail == "" {
		return fmt.Sprintf("transport: %s: %s", who, r.Code)
	}
	return fmt.Sprintf("transport: %s: %s: %s", who, r.Code, r.Detail)
}
