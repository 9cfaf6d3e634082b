package engine

import (
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"millrace/engine/batch"
	"millrace/engine/disk"
)

// DumpOptions says what of a data directory is printed.
type DumpOptions struct {
	Topic     string // "": all
	Partition int32  // -1: all
	From      int64  // batches and WAL rows that end at or below it are left out
	WAL       bool   // every commit and row of the WAL
	Records   bool   // every record of every batch
	JSON      bool   // one JSON object a line
}

// Dump prints what is in a data directory that nobody has open. It writes nothing there, and it does not judge: damage
// is printed where it is met, and Check says whether it matters. Batches are printed when a topic was named or records are
// asked for.
func Dump(w io.Writer, fsys disk.FS, dir string, o DumpOptions) error {
	x, err := inspect(fsys, dir)
	if err != nil {
		return err
	}
	defer x.close()
	d := &dumper{x: x, o: o, w: w, names: make(map[uint64]dumpedName)}
	m := x.meta
	d.line(0, dumpedMeta{
		Kind: "directory", ID: hex.EncodeToString(m.DirectoryID[:]), NodeID: m.NodeID, ClusterID: m.ClusterID, Format: m.Format, Features: m.Features,
		BootID: m.BootID, Incarnation: m.Incarnation,
	})
	ids, err := x.shardIDs()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if err := d.shard(id); err != nil {
			return err
		}
	}
	return d.err
}

// dumper prints one directory.
type dumper struct {
	x     *inspector
	o     DumpOptions
	w     io.Writer
	err   error // of the first write
	names map[uint64]dumpedName
	r     batch.Reader
}

type dumpedName struct {
	topic     string
	partition int32
}

func (n dumpedName) String() string { return fmt.Sprintf("%s-%d", n.topic, n.partition) }

// dumped is a thing that can be printed.
type dumped interface{ text() string }

// line prints one thing, indented by depth.
func (d *dumper) line(depth int, v dumped) {
	if d.err != nil {
		return
	}
	if !d.o.JSON {
		_, d.err = fmt.Fprintf(d.w, "%s%s\n", strings.Repeat("  ", depth), v.text())
		return
	}
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("BUG: %T: %v", v, err))
	}
	_, d.err = d.w.Write(append(b, '\n'))
}

// wants reports whether a log was asked for.
func (d *dumper) wants(n dumpedName) bool {
	return (d.o.Topic == "" || d.o.Topic == n.topic) && (d.o.Partition < 0 || d.o.Partition == n.partition)
}

func (d *dumper) damage(depth int, file string, pos int64, reason string) {
	d.line(depth, dumpedDamage{Kind: "damage", Problem: Problem{File: d.x.relative(file), Pos: pos, Reason: reason}})
}

func (d *dumper) shard(id int) error {
	cp, err := d.x.readCheckpoint(id)
	if err != nil {
		return err
	}
	if cp != nil {
		if err := d.checkpoint(id, cp); err != nil {
			return err
		}
	}
	return d.wal(id)
}

func (d *dumper) checkpoint(shard int, cp *inspectedCheckpoint) error {
	head, _ := cp.last()
	d.line(0, dumpedCheckpoint{
		Kind: "checkpoint", Shard: shard, File: d.x.relative(cp.path), Bytes: cp.size, Frames: len(cp.frames), ReplayLSN: head.replayLSN,
		DurableLSN: head.lsnFloor, Generation: head.generation, LogIDs: head.nextLogID,
	})
	if cp.headErr != nil {
		d.damage(1, cp.path, 0, cp.headErr.Error())
	}
	if cp.broken != 0 {
		d.damage(1, cp.path, cp.broken, "damaged frame: there are valid ones behind it")
	} else if cp.end < cp.size {
		d.damage(1, cp.path, cp.end, "an unfinished frame")
	}
	entries := make([]*inspectedEntry, 0, len(cp.frames))
	for _, e := range cp.newest() {
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b *inspectedEntry) int { return cmp.Compare(a.log.logID, b.log.logID) })
	for _, e := range entries {
		n := dumpedName{e.log.topic, e.log.partition}
		d.names[e.log.logID] = n
		if d.wants(n) {
			if err := d.entry(n, e.log); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *dumper) entry(n dumpedName, e *logEntry) error {
	v := dumpedLog{
		Kind: "log", Log: n.String(), LogID: e.logID, TopicID: hex.EncodeToString(e.topicID[:]), Dropped: e.dropped, Quarantine: e.quarantine, Seq: e.seq,
		Start: e.start, End: e.end, HighWatermark: e.hw, LeaderEpoch: e.epoch, TailBytes: len(e.tail), ProducerBytes: len(e.producers), AbortedTxns: e.aborted.Len(),
	}
	for _, entry := range e.epochs.Entries() {
		v.Epochs = append(v.Epochs, [2]int64{int64(entry.Epoch), entry.StartOffset})
	}
	d.line(1, v)
	for i := range e.segments {
		if err := d.segment(e, &e.segments[i]); err != nil {
			return err
		}
	}
	return nil
}

func (d *dumper) segment(e *logEntry, g *segmentEntry) error {
	dir := logDirName(e.topic, e.partition, e.logID)
	path := d.x.path(logsName, dir, segmentFileName(g, "log"))
	d.line(2, dumpedSegment{
		Kind: "segment", File: d.x.relative(path), Base: g.base, Next: g.next, Bytes: g.size, Sealed: g.sealed, HasFile: g.hasFile, MaxTimestamp: g.maxTime,
		Created: g.created,
	})
	if d.o.Topic == "" && !d.o.Records || g.next <= d.o.From {
		return nil
	}
	s, err := d.x.openSegmentFile(dir, g, e.written, e.tail)
	if errors.Is(err, fs.ErrNotExist) {
		d.damage(3, path, -1, "the segment is missing")
		return nil
	}
	if err != nil {
		return err
	}
	defer s.close()
	err = s.walk(func(b inspectedBatch) error {
		if b.h.NextOffset() > d.o.From {
			d.batch(3, b.pos, b.raw, &b.h)
		}
		return d.err
	})
	var damage *CorruptionError
	if errors.As(err, &damage) {
		d.damage(3, damage.File, damage.Pos, damage.Reason)
		return nil
	}
	return err
}

func (d *dumper) batch(depth int, pos int64, raw []byte, h *batch.Header) {
	v := dumpedBatch{
		Kind: "batch", Pos: pos, Base: h.BaseOffset, Last: h.LastOffset(), Bytes: len(raw), Records: h.NumRecords, LeaderEpoch: h.LeaderEpoch, Codec: h.Codec().String(),
		BaseTimestamp: h.BaseTimestamp, MaxTimestamp: h.MaxTimestamp, ProducerID: h.ProducerID, ProducerEpoch: h.ProducerEpoch, BaseSequence: h.BaseSequence,
		Transactional: h.IsTransactional(), Control: h.IsControl(), CRC: fmt.Sprintf("%08x", h.CRC),
	}
	if h.IsControl() {
		if m, _, err := batch.ParseMarker(raw); err == nil {
			v.Marker = m.String()
		}
	}
	d.line(depth, v)
	if d.o.Records {
		d.records(depth+1, raw, h)
	}
}

func (d *dumper) records(depth int, raw []byte, h *batch.Header) {
	if err := d.r.Reset(raw, uncompressedMax); err != nil {
		d.line(depth, dumpedDamage{Kind: "damage", Problem: Problem{Pos: -1, Reason: err.Error()}})
		return
	}
	for {
		rec, err := d.r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			d.line(depth, dumpedDamage{Kind: "damage", Problem: Problem{Pos: -1, Reason: err.Error()}})
			return
		}
		v := dumpedRecord{Kind: "record", Offset: d.r.Offset(&rec), Timestamp: h.BaseTimestamp + rec.TimestampDelta, Key: rec.Key, Value: rec.Value}
		for _, header := range rec.Headers.AppendTo(nil) {
			v.Headers = append(v.Headers, dumpedHeader{header.Key, header.Value})
		}
		if v.Offset >= d.o.From {
			d.line(depth, v)
		}
	}
}

func (d *dumper) wal(shard int) error {
	files, err := d.x.openWAL(shard)
	if err != nil {
		return err
	}
	defer closeWAL(files)
	for i, f := range files {
		d.line(0, dumpedWAL{Kind: "wal", File: d.x.relative(f.path), Bytes: f.size, Generation: f.generation, FirstLSN: f.firstLSN, Salt: hex.EncodeToString(f.salt[:])})
		for j, pos := range []int64{0, f.end()} {
			if f.generation != 0 && f.headError[j] != "" {
				d.damage(1, f.path, pos, f.headError[j])
			}
		}
		if f.problem != "" {
			d.damage(1, f.path, -1, f.problem)
		}
		if !d.o.WAL || f.generation == 0 {
			continue
		}
		limit := uint64(0)
		if i+1 < len(files) {
			limit = files[i+1].firstLSN
		}
		e, err := f.walk(limit, 0, func(c *inspectedCommit) error {
			d.commit(f, c)
			return d.err
		})
		if err != nil {
			return err
		}
		if e.torn {
			d.damage(1, f.path, e.pos, fmt.Sprintf("commit %d is unfinished", e.next))
		}
	}
	return nil
}

func (d *dumper) commit(f *inspectedWAL, c *inspectedCommit) {
	if c.lostTo != 0 {
		d.damage(1, f.path, c.pos, fmt.Sprintf("%s: commits %d to %d are lost", c.problems[0], c.head.lsn, c.lostTo-1))
		return
	}
	h := &c.head
	d.line(1, dumpedCommit{Kind: "commit", LSN: h.lsn, Flushed: h.flushedLSN, Pos: c.pos, Bytes: h.size, Rows: h.rows})
	for _, p := range c.problems {
		d.damage(2, f.path, c.pos, p)
	}
	if c.trailer != "" {
		d.damage(2, f.path, c.pos, c.trailer)
	}
	for i := range c.rows {
		d.row(f, c, i)
	}
}

func (d *dumper) row(f *inspectedWAL, c *inspectedCommit, i int) {
	r := &c.rows[i]
	good := c.bad == nil || c.bad[i] == ""
	if r.kind == recCreate && good {
		if p, ok := parseCreatePayload(c.payload(r)); ok {
			d.names[r.logID] = dumpedName{p.topic, p.partition}
		}
	}
	n, known := d.names[r.logID]
	if r.kind != recMark && !d.wants(n) || r.kind == recAppend && r.base+int64(r.lastDelta) < d.o.From {
		return
	}
	v := dumpedRow{Kind: "row", Type: r.kind.String(), LogID: r.logID, Seq: r.seq, Offset: r.base, Bytes: r.length, LeaderEpoch: r.leaderEpoch, HighWatermark: r.hw}
	if known {
		v.Log = n.String()
	}
	d.line(2, v)
	switch {
	case !good:
		d.damage(3, f.path, c.pos+int64(r.pos), c.bad[i])
	case r.kind == recAppend && d.o.Records:
		p := c.payload(r)
		if h, err := batch.ParseHeader(p); err == nil {
			d.batch(3, c.pos+int64(r.pos), p, &h)
		}
	}
}

// What is printed, one type a kind of line.
type (
	dumpedMeta struct {
		Kind        string `json:"kind"`
		ID          string `json:"directory_id"`
		NodeID      int32  `json:"node_id"`
		ClusterID   string `json:"cluster_id"`
		Format      int    `json:"format"`
		Features    uint64 `json:"features"`
		BootID      string `json:"boot_id"`
		Incarnation uint64 `json:"incarnation"`
	}
	dumpedDamage struct {
		Kind string `json:"kind"`
		Problem
	}
	dumpedCheckpoint struct {
		Kind       string `json:"kind"`
		Shard      int    `json:"shard"`
		File       string `json:"file"`
		Bytes      int64  `json:"bytes"`
		Frames     int    `json:"frames"`
		ReplayLSN  uint64 `json:"replay_lsn"`
		DurableLSN uint64 `json:"durable_lsn"`
		Generation uint64 `json:"generation"`
		LogIDs     uint64 `json:"log_ids"`
	}
	dumpedLog struct {
		Kind          string     `json:"kind"`
		Log           string     `json:"log"`
		LogID         uint64     `json:"log_id"`
		TopicID       string     `json:"topic_id"`
		Dropped       bool       `json:"dropped,omitempty"`
		Quarantine    string     `json:"quarantine,omitempty"`
		Seq           uint64     `json:"seq"`
		Start         int64      `json:"start"`
		End           int64      `json:"end"`
		HighWatermark int64      `json:"high_watermark"`
		LeaderEpoch   int32      `json:"leader_epoch"`
		TailBytes     int        `json:"tail_bytes"`
		ProducerBytes int        `json:"producer_bytes"`
		AbortedTxns   int        `json:"aborted_txns"`
		Epochs        [][2]int64 `json:"epochs"`
	}
	dumpedSegment struct {
		Kind         string `json:"kind"`
		File         string `json:"file"`
		Base         int64  `json:"base"`
		Next         int64  `json:"next"`
		Bytes        int64  `json:"bytes"`
		Sealed       bool   `json:"sealed"`
		HasFile      bool   `json:"has_file"`
		MaxTimestamp int64  `json:"max_timestamp"`
		Created      int64  `json:"created"`
	}
	dumpedBatch struct {
		Kind          string `json:"kind"`
		Pos           int64  `json:"pos"`
		Base          int64  `json:"base"`
		Last          int64  `json:"last"`
		Bytes         int    `json:"bytes"`
		Records       int32  `json:"records"`
		LeaderEpoch   int32  `json:"leader_epoch"`
		Codec         string `json:"codec"`
		BaseTimestamp int64  `json:"base_timestamp"`
		MaxTimestamp  int64  `json:"max_timestamp"`
		ProducerID    int64  `json:"producer_id"`
		ProducerEpoch int16  `json:"producer_epoch"`
		BaseSequence  int32  `json:"base_sequence"`
		Transactional bool   `json:"transactional,omitempty"`
		Control       bool   `json:"control,omitempty"`
		Marker        string `json:"marker,omitempty"`
		CRC           string `json:"crc"`
	}
	dumpedRecord struct {
		Kind      string         `json:"kind"`
		Offset    int64          `json:"offset"`
		Timestamp int64          `json:"timestamp"`
		Key       dumpedBytes    `json:"key"`
		Value     dumpedBytes    `json:"value"`
		Headers   []dumpedHeader `json:"headers,omitempty"`
	}
	dumpedHeader struct {
		Key   string      `json:"key"`
		Value dumpedBytes `json:"value"`
	}
	dumpedWAL struct {
		Kind       string `json:"kind"`
		File       string `json:"file"`
		Bytes      int64  `json:"bytes"`
		Generation uint64 `json:"generation"`
		FirstLSN   uint64 `json:"first_lsn"`
		Salt       string `json:"salt"`
	}
	dumpedCommit struct {
		Kind    string `json:"kind"`
		LSN     uint64 `json:"lsn"`
		Flushed uint64 `json:"flushed_lsn"`
		Pos     int64  `json:"pos"`
		Bytes   uint32 `json:"bytes"`
		Rows    uint32 `json:"rows"`
	}
	dumpedRow struct {
		Kind          string `json:"kind"`
		Type          string `json:"type"`
		Log           string `json:"log,omitempty"`
		LogID         uint64 `json:"log_id"`
		Seq           uint64 `json:"seq"`
		Offset        int64  `json:"offset"`
		Bytes         uint32 `json:"bytes"`
		LeaderEpoch   int32  `json:"leader_epoch"`
		HighWatermark int64  `json:"high_watermark"`
	}
)

// dumpedBytes are a key or a value: text as text, null as null, anything else in base64.
type dumpedBytes []byte

func (b dumpedBytes) MarshalJSON() ([]byte, error) {
	switch {
	case b == nil:
		return []byte("null"), nil
	case utf8.Valid(b):
		return json.Marshal(string(b))
	default:
		return json.Marshal("base64:" + base64.StdEncoding.EncodeToString(b))
	}
}

func (b dumpedBytes) String() string {
	if b == nil {
		return "null"
	}
	return strconv.Quote(string(b))
}

func dumpedTime(millis int64) string {
	if millis < 0 {
		return "no time"
	}
	return time.UnixMilli(millis).UTC().Format("2006-01-02T15:04:05.000Z")
}

func (v dumpedMeta) text() string {
	return fmt.Sprintf("directory %s: node %d, cluster %q, opened %d times, format %d", v.ID, v.NodeID, v.ClusterID, v.Incarnation, v.Format)
}

func (v dumpedDamage) text() string {
	if v.File == "" {
		return "! " + v.Reason
	}
	return "! " + v.String()
}

func (v dumpedCheckpoint) text() string {
	return fmt.Sprintf("%s: %d bytes, %d frames; replay from LSN %d, durable LSN %d, WAL generation %d, %d log ids given out", v.File, v.Bytes, v.Frames, v.ReplayLSN, v.DurableLSN, v.Generation, v.LogIDs)
}

func (v dumpedLog) text() string {
	s := fmt.Sprintf("log %d %s (topic %s): offsets %d to %d, high watermark %d, leader epoch %d, record %d", v.LogID, v.Log, v.TopicID, v.Start, v.End, v.HighWatermark, v.LeaderEpoch, v.Seq)
	if len(v.Epochs) > 0 {
		s += fmt.Sprintf(", epochs from %v", v.Epochs)
	}
	if v.TailBytes > 0 {
		s += fmt.Sprintf(", %d bytes in the tail block", v.TailBytes)
	}
	if v.Dropped {
		s += ", dropped"
	}
	if v.Quarantine != "" {
		s += ", quarantined: " + v.Quarantine
	}
	return s
}

func (v dumpedSegment) text() string {
	state := "active"
	switch {
	case v.Sealed:
		state = "sealed"
	case !v.HasFile:
		state = "active, no file yet"
	}
	return fmt.Sprintf("%s: offsets %d to %d, %d bytes, %s, newest %s", v.File, v.Base, v.Next, v.Bytes, state, dumpedTime(v.MaxTimestamp))
}

func (v dumpedBatch) text() string {
	s := fmt.Sprintf("byte %d: offsets %d to %d, %d records, %d bytes, epoch %d, %s, %s", v.Pos, v.Base, v.Last, v.Records, v.Bytes, v.LeaderEpoch, v.Codec, dumpedTime(v.MaxTimestamp))
	if v.ProducerID >= 0 {
		s += fmt.Sprintf(", producer %d epoch %d sequence %d", v.ProducerID, v.ProducerEpoch, v.BaseSequence)
	}
	if v.Transactional {
		s += ", transactional"
	}
	if v.Control {
		s += ", control " + v.Marker
	}
	return s
}

func (v dumpedRecord) text() string {
	s := fmt.Sprintf("%d %s %s = %s", v.Offset, dumpedTime(v.Timestamp), v.Key, v.Value)
	for _, h := range v.Headers {
		s += fmt.Sprintf(" [%q: %s]", h.Key, h.Value)
	}
	return s
}

func (v dumpedWAL) text() string {
	if v.Generation == 0 {
		return fmt.Sprintf("%s: %d bytes, not in use", v.File, v.Bytes)
	}
	return fmt.Sprintf("%s: %d bytes, generation %d, from LSN %d", v.File, v.Bytes, v.Generation, v.FirstLSN)
}

func (v dumpedCommit) text() string {
	return fmt.Sprintf("commit %d at byte %d: %d bytes, %d rows, flushed to %d", v.LSN, v.Pos, v.Bytes, v.Rows, v.Flushed)
}

func (v dumpedRow) text() string {
	if v.Type == recMark.String() {
		return fmt.Sprintf("mark: everything up to commit %d was flushed", v.Offset)
	}
	name := v.Log
	if name == "" {
		name = fmt.Sprintf("log %d", v.LogID)
	}
	return fmt.Sprintf("%s %s: record %d, offset %d, %d bytes, epoch %d, high watermark %d", v.Type, name, v.Seq, v.Offset, v.Bytes, v.LeaderEpoch, v.HighWatermark)
}
