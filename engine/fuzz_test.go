package engine

import (
	"bytes"
	"encoding/binary"
	"os"
	"reflect"
	"testing"

	"github.com/klauspost/crc32"

	"millrace/engine/batch"
	"millrace/engine/disk"
	"millrace/engine/disk/simdisk"
	"millrace/engine/epoch"
	"millrace/engine/producer"
)

// Every decoder of FORMAT.md against arbitrary bytes: no panic, no memory beyond a small multiple of the input, and what
// is accepted is written back as something that reads the same. Checksums are put right first: what is interesting
// lies behind them.

// putCRC stores the checksum of b[12:end] at b[8:12].
func putCRC(b []byte, end int) []byte {
	b = bytes.Clone(b)
	if len(b) >= max(12, end) {
		binary.LittleEndian.PutUint32(b[8:], crc32.Checksum(b[12:end], castagnoli))
	}
	return b
}

func FuzzMeta(f *testing.F) {
	f.Add((&Meta{Format: metaVersion, ClusterID: "c", NodeID: 3, BootID: "b", Incarnation: 9}).encode())
	f.Add([]byte(metaMagic + "\n{}\ncrc32c 00000000\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(b)
		if err != nil {
			return
		}
		if again, err := decodeMeta(m.encode()); err != nil || again != m {
			t.Fatalf("%+v became %+v: %v", m, again, err)
		}
	})
}

func FuzzWALFileHeader(f *testing.F) {
	b := make([]byte, blockSize)
	(&walFileHeader{directoryID: [16]byte{1}, shard: 2, generation: 3, firstLSN: 4, salt: [16]byte{5}}).put(b)
	f.Add(b[:walFileHeaderSz])
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, b := range [][]byte{b, putCRC(b, walFileHeaderSz)} {
			h, ok, err := parseWALFileHeader(b)
			if !ok || err != nil {
				continue
			}
			block := make([]byte, blockSize)
			h.put(block)
			if again, ok, err := parseWALFileHeader(block); !ok || err != nil || again != h {
				t.Fatalf("%+v became %+v: %v, %v", h, again, ok, err)
			}
		}
	})
}

// someCommit is a sealed commit with a batch, a Create and a Mark.
func someCommit(lsn uint64, pos int64, generation uint64, salt *[saltSz]byte) []byte {
	b := make([]byte, 2*blockSize)
	raw, h := testBatch(2, "value", 5)
	at := rowRoomBytes(6)
	batchAt := at
	at += copy(b[at:], raw)
	create := (&createPayload{topicID: TopicID{7}, partition: 1, topic: "t"}).appendTo(nil)
	createAt := at
	at += copy(b[at:], create)
	rows := []walRow{
		{logID: 1, base: 0, hw: -1, seq: 1, length: uint32(len(raw)), crc: h.CRC, leaderEpoch: h.LeaderEpoch, pos: uint32(batchAt), lastDelta: h.LastOffsetDelta, kind: recAppend, maxTime: h.MaxTimestamp},
		{logID: 2, hw: -1, seq: 1, length: uint32(len(create)), crc: crc32.Checksum(create, castagnoli), leaderEpoch: -1, pos: uint32(createAt), kind: recCreate},
		{base: int64(lsn) - 1, hw: -1, pos: uint32(at), kind: recMark},
	}
	for i := range rows {
		rows[i].put(b[commitHeaderSz+i*commitRowSz:])
	}
	head := commitHeader{
		generation: generation, lsn: lsn, flushedLSN: lsn - 1, filePos: pos, size: uint32(len(b)), rows: uint32(len(rows)),
		payloadPos: uint32(rowRoomBytes(6)), trailerPos: uint32(at),
	}
	head.seal(b, salt)
	return b
}

func FuzzCommitHeader(f *testing.F) {
	salt := [saltSz]byte{1, 2, 3}
	f.Add(someCommit(9, blockSize, 4, &salt))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, problem := peekCommit(b)
		if problem != commitOK {
			return
		}
		rowsEnd := commitHeaderSz + int(h.rows)*commitRowSz
		if int(h.size) > maxCommitBytes || rowsEnd > int(h.size) {
			t.Fatalf("accepted %+v", h)
		}
		if rowsEnd <= len(b) {
			b = bytes.Clone(b)
			binary.LittleEndian.PutUint32(b[8:], saltedCRC(&salt, b[12:rowsEnd]))
		}
		if h.checkHeader(b, &salt, h.filePos, h.generation) != commitOK || len(b) < int(h.size) {
			return
		}
		// Rows may say anything.
		c := &inspectedCommit{pos: h.filePos, head: h, mem: b[:h.size]}
		c.readRows(b[commitHeaderSz:])
		r := &replayCommit{head: h, mem: b[:h.size]}
		r.readRows(b[commitHeaderSz:])
		r.verify(false)
		for i := range c.rows {
			row := make([]byte, commitRowSz)
			c.rows[i].put(row)
			var again walRow
			if again.get(row); again != c.rows[i] {
				t.Fatalf("row %+v became %+v", c.rows[i], again)
			}
			if good := c.bad == nil || c.bad[i] == ""; good && c.rows[i].kind != recMark && r.bad != nil && r.bad[i] {
				t.Fatalf("check accepts row %+v, recovery does not", c.rows[i])
			}
		}
		sealed := bytes.Clone(b[:h.size])
		h.seal(sealed, &salt)
		again, problem := peekCommit(sealed)
		if problem != commitOK || again != h || again.checkHeader(sealed, &salt, h.filePos, h.generation) != commitOK {
			t.Fatalf("%+v became %+v: %s", h, again, problem)
		}
		th, _, problem := parseTrailer(sealed, &salt, h.filePos+int64(h.size), h.generation)
		th.features = h.features
		if problem != commitOK || th != h {
			t.Fatalf("trailer of %+v says %+v: %s", h, th, problem)
		}
	})
}

func FuzzCommitTrailer(f *testing.F) {
	salt := [saltSz]byte{1, 2, 3}
	f.Add(someCommit(9, blockSize, 4, &salt))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < trailerSz {
			if _, _, problem := parseTrailer(b, &salt, 0, 0); problem == commitOK {
				t.Fatal("accepted nothing")
			}
			return
		}
		// Find out where it says that its rows are, and put the checksum right.
		b = bytes.Clone(b)
		foot := b[len(b)-trailerSz:]
		le := binary.LittleEndian
		size, trailerPos, rows := int64(le.Uint32(foot[48:])), int64(le.Uint32(foot[52:])), int64(le.Uint32(foot[12:]))
		at := int64(len(b)) - (size - trailerPos)
		if at >= 0 && at+rows*commitRowSz <= int64(len(b)) {
			crc := saltedCRC(&salt, foot[12:])
			le.PutUint32(foot[8:], crc32.Update(crc, castagnoli, b[at:at+rows*commitRowSz]))
		}
		end := int64(le.Uint64(foot[40:])) + size
		h, rowsAt, problem := parseTrailer(b, &salt, end, le.Uint64(foot[16:]))
		if problem != commitOK {
			return
		}
		if rowsAt < 0 || rowsAt+int(h.rows)*commitRowSz > len(b) || h.shape() != commitOK {
			t.Fatalf("accepted %+v with rows at %d of %d", h, rowsAt, len(b))
		}
		c := &replayCommit{head: h}
		c.readRows(b[rowsAt:])
	})
}

// FuzzWALFile: the walk over a file ends, its LSNs grow, and it stays inside.
func FuzzWALFile(f *testing.F) {
	salt := [saltSz]byte{1, 2, 3}
	two := append(someCommit(5, blockSize, 4, &salt), someCommit(6, 3*blockSize, 4, &salt)...)
	f.Add(two, uint64(0), uint64(0))
	torn := bytes.Clone(two)
	torn[3*blockSize+50] ^= 1
	f.Add(torn, uint64(0), uint64(5))
	torn = bytes.Clone(two)
	torn[200] ^= 1
	f.Add(torn, uint64(9), uint64(0))
	f.Fuzz(func(t *testing.T, content []byte, limit, floor uint64) {
		if len(content) > 16*blockSize {
			return
		}
		d := simdisk.New(1)
		file, err := d.OpenFile("/wal", os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, disk.AlignUp(len(content))+4*blockSize)
		copy(b[blockSize:], content)
		if _, err := file.WriteAt(b, 0); err != nil {
			t.Fatal(err)
		}
		w := &inspectedWAL{f: file, size: int64(len(b)), generation: 4, firstLSN: 5, salt: salt}
		next, visits := uint64(5), 0
		if _, err := w.walk(limit, floor, func(c *inspectedCommit) error {
			if visits++; visits > len(b)/blockSize+1 {
				t.Fatal("it does not end")
			}
			if c.head.lsn != next || c.pos < blockSize || c.pos+int64(c.head.size) > w.end() {
				t.Fatalf("commit %d at %d with %d bytes, expected %d", c.head.lsn, c.pos, c.head.size, next)
			}
			next++
			if c.lostTo != 0 {
				next = c.lostTo
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzCreatePayload(f *testing.F) {
	f.Add((&createPayload{topicID: TopicID{1}, partition: 3, topic: "topic"}).appendTo(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, ok := parseCreatePayload(b); ok && !bytes.Equal(c.appendTo(nil), b) {
			t.Fatalf("%x became %x", b, c.appendTo(nil))
		}
	})
}

func FuzzCheckpointHead(f *testing.F) {
	f.Add((&checkpointHead{directoryID: [16]byte{1}, shard: 2, number: 3}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeCheckpointHead(putCRC(b, checkpointHeadSz))
		if err != nil {
			return
		}
		if again, err := decodeCheckpointHead(h.encode()); err != nil || again != h {
			t.Fatalf("%+v became %+v: %v", h, again, err)
		}
	})
}

// someEntry is a log with everything that an entry can have.
func someEntry() *logEntry {
	e := &logEntry{
		logID: 7, topicID: TopicID{1}, partition: 2, topic: "topic", quarantine: "why", seq: 99, start: 3, end: 40, hw: 39, epoch: 5,
		segments: []segmentEntry{
			{base: 0, next: 20, generation: 1<<generationBits | 1, size: 5000, maxTime: 77, maxBase: 10, created: 5, sealed: true, hasFile: true},
			{base: 20, next: 40, generation: 1<<generationBits | 2, size: blockSize + 10, maxTime: 99, maxBase: 30, created: 6, hasFile: true},
		},
		written: blockSize, tail: make([]byte, 10), active: newSegmentIndex(20), indexed: 4000,
	}
	e.active.add(20, 0, 50, 20)
	e.active.add(30, 4000, 99, 30)
	var c epoch.Cache
	c.Assign(1, 3)
	c.Assign(5, 20)
	e.epochs = c
	e.aborted.Append(AbortedTxn{ProducerID: 4, FirstOffset: 5, LastOffset: 9, LastStableOffset: 10})
	p := producer.New()
	b := batch.NewBuilder(30, 5)
	b.SetProducer(4, 0, 0)
	b.Append(1, []byte("k"), nil, nil)
	h, err := batch.ParseHeader(b.Build())
	if err != nil {
		panic(err)
	}
	p.Apply(h)
	e.producers = p.AppendTo(nil)
	return e
}

func FuzzLogEntry(f *testing.F) {
	e := someEntry()
	if err := e.check(); err != nil {
		f.Fatal(err)
	}
	f.Add(e.appendTo(nil)[4:])
	f.Add((&logEntry{logID: 1, topic: "t", dropped: true, dropLSN: 8}).appendTo(nil)[4:])
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := decodeLogEntry(b)
		if err != nil {
			return
		}
		if err := e.check(); err != nil {
			t.Fatalf("accepted %+v: %v", e, err)
		}
		first := e.appendTo(nil)
		again, err := decodeLogEntry(first[4:])
		if err != nil {
			t.Fatalf("%+v cannot be read back: %v", e, err)
		}
		if !bytes.Equal(first, again.appendTo(nil)) {
			t.Fatalf("%+v became %+v", e, again)
		}
	})
}

func FuzzCheckpointFrame(f *testing.F) {
	payload := someEntry().appendTo(nil)
	b := append(make([]byte, frameHeadSz), payload...)
	(&frameHead{seq: 1, replayLSN: 5, nextLogID: 7, lsnFloor: 9, generation: 3, length: uint32(len(payload)), count: 1}).put(b)
	f.Add(b)
	f.Add(append(bytes.Clone(b), b...))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, ok := peekFrame(b)
		if !ok || frameHeadSz+int64(h.length) > int64(len(b)) {
			return
		}
		b = putCRC(b[:frameHeadSz+h.length], frameHeadSz+int(h.length))
		if !checkFrame(b) {
			t.Fatal("a right checksum is refused")
		}
		list, err := splitEntries(b[frameHeadSz:], h.count)
		if err != nil {
			return
		}
		if len(list) != int(h.count) {
			t.Fatalf("%d entries of %d", len(list), h.count)
		}
		for _, e := range list {
			_, _ = decodeLogEntry(e)
		}
		copied := bytes.Clone(b)
		h.put(copied)
		if again, ok := peekFrame(copied); !ok || again != h || !checkFrame(copied) {
			t.Fatalf("%+v became %+v", h, again)
		}
	})
}

// FuzzCheckpointFile: frames and what is behind damaged ones.
func FuzzCheckpointFile(f *testing.F) {
	b := (&checkpointHead{shard: 0, number: 1}).encode()
	for seq := range uint64(3) {
		payload := someEntry().appendTo(nil)
		frame := append(make([]byte, frameHeadSz), payload...)
		(&frameHead{seq: seq + 1, replayLSN: 5, nextLogID: 7, lsnFloor: 9, generation: 3, length: uint32(len(payload)), count: 1}).put(frame)
		b = append(b, frame...)
	}
	f.Add(b)
	damaged := bytes.Clone(b)
	damaged[len(b)/2] ^= 1
	f.Add(damaged)
	f.Fuzz(func(t *testing.T, content []byte) {
		d := simdisk.New(1)
		file, err := d.OpenFile("/checkpoint", os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt(content, 0); err != nil {
			t.Fatal(err)
		}
		c := &inspectedCheckpoint{size: int64(len(content))}
		if err := c.readFrames(file); err != nil {
			t.Fatal(err)
		}
		last := uint64(0)
		for i := range c.frames {
			fr := &c.frames[i]
			if fr.head.seq <= last || fr.pos+frameHeadSz+int64(fr.head.length) > c.size {
				t.Fatalf("frame %d after %d at %d of %d", fr.head.seq, last, fr.pos, c.size)
			}
			last = fr.head.seq
		}
		c.newest()
		c.resume()
	})
}

func FuzzIndexFile(f *testing.F) {
	x := newSegmentIndex(100)
	x.add(100, 0, 5, 100)
	x.add(120, 4096, 9, 110)
	g := &segment{base: 100, generation: 6}
	f.Add(encodeIndexFile(g, x))
	f.Fuzz(func(t *testing.T, b []byte) {
		b = putCRC(b, len(b))
		x, err := decodeIndexFile(b, g.base, g.generation)
		if err != nil {
			return
		}
		again, err := decodeIndexFile(encodeIndexFile(g, x), g.base, g.generation)
		if err != nil || !reflect.DeepEqual(again, x) {
			t.Fatalf("%+v became %+v: %v", x, again, err)
		}
		indexProblem(x, nil, 1<<40)
	})
}
