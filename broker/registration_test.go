package broker

import (
	"os"
	"path/filepath"
	"testing"

	"millrace/engine/disk"
	"millrace/raft"
)

func TestRegistrationTellsPowerCuts(t *testing.T) {
	dir := raft.NewUUID()
	image := func(epoch int64, listeners ...raft.Listener) *raft.Image {
		return &raft.Image{Brokers: map[int32]*raft.Broker{1: {ID: 1, Epoch: epoch, DirectoryID: dir, Listeners: listeners}}}
	}
	cluster := raft.Listener{Name: "PLAINTEXT", Host: "h", Port: 1}
	for _, c := range []struct {
		what string
		r    *registration
		img  *raft.Image
		lost bool
	}{
		{"a new directory", nil, &raft.Image{}, false},
		{"announced only", nil, image(-1), false},
		{"a standalone directory", nil, image(7), false},
		{"the file is gone", nil, image(7, cluster), true},
		{"died before its first registration was noted", &registration{BrokerEpoch: noRegistration, BootID: "old"}, image(7, cluster), false},
		{"killed", &registration{BrokerEpoch: 7, BootID: "now"}, image(7, cluster), false},
		{"power cut", &registration{BrokerEpoch: 7, BootID: "old"}, image(7, cluster), true},
		{"clean stop and reboot", &registration{BrokerEpoch: 7, BootID: "old", CleanStop: true}, image(7, cluster), false},
		{"clean stop of an older process", &registration{BrokerEpoch: 7, BootID: "old", CleanStop: true}, image(9, cluster), true},
		{"boot not known", &registration{BrokerEpoch: 7}, image(7, cluster), true},
	} {
		if got := c.r.powerLost(c.img, 1, dir, "now"); got != c.lost {
			t.Errorf("%s: lost is %t", c.what, got)
		}
	}
	// Another directory under the same id knows nothing of the first one's power cut.
	if (*registration)(nil).powerLost(image(7, cluster), 1, raft.NewUUID(), "now") {
		t.Error("a new directory under an old id")
	}
}

func TestRegistrationSurvivesInItsFile(t *testing.T) {
	dir, fsys := t.TempDir(), disk.OS()
	if r, err := readRegistration(fsys, dir); r != nil || err != nil {
		t.Fatal(r, err)
	}
	want := registration{BrokerEpoch: 42, BootID: "b", CleanStop: true}
	if err := want.write(fsys, dir); err != nil {
		t.Fatal(err)
	}
	if r, err := readRegistration(fsys, dir); err != nil || r == nil || *r != want {
		t.Fatal(r, err)
	}
	if err := os.WriteFile(filepath.Join(dir, registrationName), []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if r, err := readRegistration(fsys, dir); r != nil || err != nil {
		t.Fatal("a torn file counts", r, err)
	}
}
