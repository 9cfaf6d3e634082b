package raft

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
)

// UUID identifies a topic, a data directory or a broker incarnation.
type UUID [16]byte

// ErrUUID is returned by ParseUUID for anything that is not 16 bytes of base64url.
var ErrUUID = errors.New("raft: not a uuid (22 characters of base64url)")

// NewUUID draws a random UUID. Like Kafka's it is never zero and its text never starts with a dash,
// which command line tools would take for an option.
func NewUUID() UUID {
	for {
		var u UUID
		if _, err := rand.Read(u[:]); err != nil {
			panic("BUG: crypto/rand failed: " + err.Error()) // it cannot since Go 1.24
		}
		u[6] = u[6]&0x0f | 0x40
		u[8] = u[8]&0x3f | 0x80
		if u.String()[0] != '-' {
			return u
		}
	}
}

// ParseUUID reads what String wrote.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) != len(u) {
		return UUID{}, ErrUUID
	}
	copy(u[:], b)
	return u, nil
}

// String is Kafka's text form: 22 characters of base64url.
func (u UUID) String() string { return base64.RawURLEncoding.EncodeToString(u[:]) }

// IsZero reports whether u is unset.
func (u UUID) IsZero() bool { return u == UUID{} }
