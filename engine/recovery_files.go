package engine

import (
	"fmt"
	"maps"
	"slices"
)

// verifyFiles looks whether the files that the checkpoint names are there, and as long as it says: names and sizes only. What is in them
// shows when it is read. A log that misses one is quarantined as of its checkpoint: what the WAL has of it cannot
// be put behind a hole.
func (r *recovery) verifyFiles() error {
	for _, id := range slices.Sorted(maps.Keys(r.logs)) {
		l := r.logs[id]
		st := &l.stable
		for _, g := range st.segments {
			need := g.size
			if !g.sealed {
				need = st.written
			}
			if need == 0 {
				continue
			}
			if err := r.verifyFile(g, need); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *recovery) verifyFile(g *segment, need int64) error {
	e := r.s.e
	path := g.path()
	info, err := e.fs.Stat(path)
	var reason string
	switch {
	case isMissing(err):
		reason = fmt.Sprintf("the segment's file is missing: offsets %d to %d", g.base, g.next-1)
	case err != nil:
		return err
	case info.IsDir || info.Size < need:
		reason = fmt.Sprintf("the segment's file has %d bytes, %d are needed: offsets %d to %d", info.Size, need, g.base, g.next-1)
	default:
		return nil
	}
	e.report.Damage = append(e.report.Damage, CorruptionError{File: path, Pos: -1, Reason: reason})
	r.quarantine(g.log, fmt.Sprintf("%s: %s", g.name(), reason))
	return nil
}
