package group

import (
	"maps"
	"slices"
)

const (
	// sweepRecordsMax and sweepGroupsMax bound what one Tick does of a sweep: the
	// broker holds the shard's lock meanwhile.
	sweepRecordsMax = 1000
	sweepGroupsMax  = 1000
)

// sweep is the walk over all groups that expires offsets; it goes on in steps.
type sweep struct{ left []string }

// expireOffsets is one step of a sweep (KIP-211). When a group's last offset is gone
// and nobody is in it, the group goes too.
func (s *Shard) expireOffsets() {
	if len(s.sweep.left) == 0 {
		s.sweep.left = slices.Sorted(maps.Keys(s.groups))
	}
	var undo []offsetUndo
	for range sweepGroupsMax {
		if len(s.sweep.left) == 0 || len(s.fx.Records) >= sweepRecordsMax {
			break
		}
		g := s.groups[s.sweep.left[0]]
		s.sweep.left = s.sweep.left[1:]
		if g == nil {
			continue
		}
		var empty bool
		if undo, empty = s.expireGroup(g, undo); empty && g.state == Empty && len(g.pending) == 0 {
			s.deleteGroup(g)
		}
	}
	s.undoOffsets(undo)
	if len(s.sweep.left) > 0 {
		s.timers.arm(s.sweepTimer, s.now)
		return
	}
	s.sweep.left = nil
	s.timers.arm(s.sweepTimer, s.now.Add(s.cfg.OffsetsCheckInterval))
}

// expireGroup drops the expired offsets of a group, and says whether none is left.
func (s *Shard) expireGroup(g *group, undo []offsetUndo) ([]offsetUndo, bool) {
	if len(g.offsets) == 0 {
		return undo, true
	}
	since, ok := g.retainedSince()
	if !ok {
		return undo, false
	}
	nowMs, retentionMs := s.now.UnixMilli(), s.cfg.OffsetsRetention.Milliseconds()
	expired := func(o offset) bool {
		if o.expireTimestampMs >= 0 {
			return nowMs >= o.expireTimestampMs
		}
		return nowMs-since(o) >= retentionMs
	}
	for _, topic := range slices.Sorted(maps.Keys(g.offsets)) {
		if g.subscribedTo(topic) {
			continue
		}
		topicID := s.cfg.TopicID(topic)
		for _, p := range slices.Sorted(maps.Keys(g.offsets[topic])) {
			o := g.offsets[topic][p]
			if (expired(o) || !o.of(topicID)) && !g.unstable(topic, p) {
				undo = s.tombstone(g, topic, p, undo)
			}
		}
	}
	return undo, len(g.offsets) == 0
}

// retainedSince gives when the retention of an offset began; false: nothing of the group
// expires now.
func (g *group) retainedSince() (func(offset) int64, bool) {
	byCommit := func(o offset) int64 { return o.commitTimestampMs }
	switch {
	case g.protocolType == "":
		return byCommit, true
	case g.state == Empty && g.stateTimestamp == -1:
		return byCommit, true
	case g.state == Empty:
		// Since the group became empty: until then its members might come back for them.
		return func(offset) int64 { return g.stateTimestamp }, true
	case g.state == Stable && g.usesConsumerProtocol() && g.subscribedKnown:
		return byCommit, true // of topics that are not subscribed to any more
	default:
		return nil, false
	}
}

// deleteGroup removes an empty group, after its offsets.
func (s *Shard) deleteGroup(g *group) {
	s.write(Record{Key: appendGroupKey(nil, g.id)})
	s.drop(g)
	s.onReject(func(s *Shard) {
		if s.groups[g.id] == nil {
			g.state = Empty
			s.groups[g.id] = g
		}
	})
}
