package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"millrace/engine/disk"
	"millrace/raft"
)

// registration is what a data directory keeps of its broker's last registration in a cluster, to tell at the next start
// whether the machine lost power under it: then records that were acknowledged before their flush may be gone
// (flush.messages above 1), and the other replicas must not count on this one. It is a small text file, replaced as a
// whole and flushed.
type registration struct {
	BrokerEpoch int64  `json:"broker_epoch"` // noRegistration before the first
	BootID      string `json:"boot_id"`      // of the kernel under which it was made; "": not known
	CleanStop   bool   `json:"clean_stop"`   // everything was flushed afterwards, and nothing came later
}

const (
	registrationName = "registration"
	registrationMax  = 4 << 10

	noRegistration = -1
)

// readRegistration returns nil where there is none, or none that can be read: then the worst is assumed of it.
func readRegistration(fsys disk.FS, dir string) (*registration, error) {
	b, err := disk.ReadFile(fsys, filepath.Join(dir, registrationName), registrationMax)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r := new(registration)
	if json.Unmarshal(b, r) != nil {
		return nil, nil
	}
	return r, nil
}

func (r registration) write(fsys disk.FS, dir string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("BUG: registration: %v", err))
	}
	return disk.WriteFileAtomic(fsys, filepath.Join(dir, registrationName), append(b, '\n'))
}

// powerLost tells whether unflushed records of the last process may be gone. boot names the kernel that runs now.
//
// The engine's own note of the boot (RecoveryReport.SameBoot) is not enough: a start that ends before its registration
// would hide the power cut from the cluster. A clean stop counts only if no later registration is known: else a process
// that ended slowly could have written it over its successor's.
func (r *registration) powerLost(img *raft.Image, id int32, directory raft.UUID, boot string) bool {
	known := img.Broker(id)
	switch {
	case r == nil:
		// The first registration of this directory, unless the cluster remembers another one.
		return known != nil && known.Epoch >= 0 && known.DirectoryID == directory && len(known.Listeners) > 0
	case r.BrokerEpoch == noRegistration:
		return false // whoever registered since has not come to do anything
	case r.CleanStop && known != nil && known.Epoch == r.BrokerEpoch:
		return false
	default:
		return r.BootID == "" || r.BootID != boot
	}
}
