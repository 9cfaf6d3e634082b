package engine

// What may be cleaned, whether it is worth it, and what goes together: decisions only.

// planSegment is what the plan has to know of a segment.
type planSegment struct {
	base, next int64
	size       int64
	maxTime    int64
	created    int64 // when its first batch came
	settled    bool  // sealed, flushed, and under its name
}

// planLimits bound a plan.
type planLimits struct {
	nowMillis  int64
	dirty      int64 // everything below was cleaned before
	stable     int64 // high watermark or last stable offset
	minLag     int64 // min.compaction.lag.ms
	maxLag     int64 // max.compaction.lag.ms, 0 for none
	dirtyRatio float64
}

// cleanPlan is the first count segments of a log.
type cleanPlan struct {
	count      int
	cleanBytes int64
	dirtyBytes int64
	due        bool
}

func (p *cleanPlan) ratio() float64 {
	if p.dirtyBytes == 0 {
		return 0
	}
	return float64(p.dirtyBytes) / float64(p.cleanBytes+p.dirtyBytes)
}

// planClean decides over the segments of a log, oldest first.
func planClean(segments []planSegment, o planLimits) cleanPlan {
	var p cleanPlan
	overdue := false
	for _, g := range segments {
		isDirty := g.next > o.dirty
		tooYoung := isDirty && o.minLag > 0 && g.maxTime > o.nowMillis-o.minLag
		if !g.settled || g.next > o.stable || tooYoung {
			break
		}
		if isDirty {
			p.dirtyBytes += g.size
			overdue = overdue || o.maxLag > 0 && g.created < o.nowMillis-o.maxLag
		} else {
			p.cleanBytes += g.size
		}
		p.count++
	}
	p.due = p.dirtyBytes > 0 && (overdue || p.ratio() > o.dirtyRatio)
	return p
}

// groupSegments joins neighbours into files of at most sizeMax bytes and 2^31 offsets. It
// returns the length of each group.
func groupSegments(segments []planSegment, sizeMax int64) []int {
	var groups []int
	for i := 0; i < len(segments); {
		n, size := 1, segments[i].size
		for i+n < len(segments) && size+segments[i+n].size <= sizeMax && segments[i+n].next-segments[i].base < 1<<31 {
			size += segments[i+n].size
			n++
		}
		groups = append(groups, n)
		i += n
	}
	return groups
}
