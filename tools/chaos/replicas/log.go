package replicas

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"millrace/engine"
)

// Log is one replica of one partition.
type Log struct {
	Start, End    int64
	HighWatermark int64 // as it was last written down
	Epochs        [][2]int64
	Batches       []Batch
}

// Batch is what two replicas must agree on.
type Batch struct {
	Base  int64  `json:"base"`
	Last  int64  `json:"last"`
	Bytes int    `json:"bytes"`
	Epoch int32  `json:"leader_epoch"`
	CRC   string `json:"crc"`
}

func (b Batch) String() string {
	return fmt.Sprintf("offsets %d to %d, %d bytes, epoch %d, checksum %s", b.Base, b.Last, b.Bytes, b.Epoch, b.CRC)
}

// Directory is what one data directory holds: logs by topic-partition, and what is wrong with it.
type Directory struct {
	Logs     map[string]*Log
	Problems []string
}

// Read reads the logs of some topics.
func Read(dir string, topics []string) (*Directory, error) {
	report, err := engine.Check(nil, dir)
	if err != nil {
		return nil, err
	}
	d := &Directory{Logs: map[string]*Log{}}
	for _, p := range report.Problems {
		d.Problems = append(d.Problems, p.String())
	}
	for _, l := range report.Logs {
		if l.Damaged() {
			d.Problems = append(d.Problems, fmt.Sprintf("%s: quarantine %q, lost up to %d behind %d", l.Name(), l.Quarantine, l.LostTo, l.End))
		}
	}
	for _, topic := range topics {
		if err := d.read(dir, topic); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// line is one line of a dump: those of its fields that matter here.
type line struct {
	Kind          string     `json:"kind"`
	Log           string     `json:"log"`
	Dropped       bool       `json:"dropped"`
	Start         int64      `json:"start"`
	End           int64      `json:"end"`
	HighWatermark int64      `json:"high_watermark"`
	Epochs        [][2]int64 `json:"epochs"`
	Batch
}

// read takes one topic from a dump.
func (d *Directory) read(dir, topic string) error {
	r, w := io.Pipe()
	go func() {
		w.CloseWithError(engine.Dump(w, nil, dir, engine.DumpOptions{Topic: topic, Partition: -1, JSON: true}))
	}()
	err := d.parse(json.NewDecoder(r), topic)
	_ = r.CloseWithError(err) // the dump ends, too
	return err
}

func (d *Directory) parse(lines *json.Decoder, topic string) error {
	var log *Log
	for {
		var l line
		err := lines.Decode(&l)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("dump of %s: %w", topic, err)
		}
		switch {
		case l.Kind == "log" && l.Dropped:
			log = nil
		case l.Kind == "log":
			log = &Log{Start: l.Start, End: l.End, HighWatermark: l.HighWatermark, Epochs: l.Epochs}
			d.Logs[l.Log] = log
		case l.Kind == "batch" && log != nil && l.Last >= log.Start && l.Base < log.End:
			log.Batches = append(log.Batches, l.Batch)
		}
	}
}

// name is a log's, as a dump has it.
func name(topic string, partition int32) string {
	return topic + "-" + strconv.Itoa(int(partition))
}

// split is the topic and partition of a name.
func split(name string) (string, int32) {
	i := strings.LastIndexByte(name, '-')
	p, _ := strconv.ParseInt(name[i+1:], 10, 32) //nolint:errcheck // the engine made it
	return name[:i], int32(p)
}
