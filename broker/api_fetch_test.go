package broker

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// fetchOf asks for partitions of one topic.
func fetchOf(version int16, topic string, partitions ...int32) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MinBytes, req.MaxBytes = version, 1, 1<<20
	ft := kmsg.NewFetchRequestTopic()
	ft.Topic = topic
	for _, p := range partitions {
		fp := kmsg.NewFetchRequestTopicPartition()
		fp.Partition, fp.PartitionMaxBytes = p, 1<<20
		ft.Partitions = append(ft.Partitions, fp)
	}
	req.Topics = append(req.Topics, ft)
	return req
}

// fetch sends req and reads its answer.
func (c *rawConn) fetch(req *kmsg.FetchRequest, wait time.Duration) *kmsg.FetchResponse {
	c.t.Helper()
	_, _ = c.Write(framed(req, 1))
	_, body, err := c.receive(wait)
	if err != nil {
		c.t.Fatal(err)
	}
	if req.IsFlexible() {
		body = body[1:]
	}
	resp := kmsg.NewPtrFetchResponse()
	resp.Version = req.Version
	if err := resp.ReadFrom(body); err != nil {
		c.t.Fatalf("version %d: %v: % x", req.Version, err, body)
	}
	return resp
}

func TestFetchAnswersEveryPartitionItIsAskedFor(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	honest(t, b)
	c := dialRaw(t, b)
	for _, version := range []int16{4, 6, 11, 12} {
		resp := c.fetch(fetchOf(version, "honest", -1, 0, 7, -2147483648), 5*time.Second)
		if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 4 {
			t.Fatalf("version %d: %+v", version, resp.Topics)
		}
		for i, want := range []int16{errUnknownTopicOrPartition, errNone, errUnknownTopicOrPartition, errUnknownTopicOrPartition} {
			if p := resp.Topics[0].Partitions[i]; p.ErrorCode != want {
				t.Errorf("version %d, partition %d: error %d, want %d", version, p.Partition, p.ErrorCode, want)
			}
		}
	}
}

// An incremental answer names what changed, and nothing else.
func TestFetchSessionTellsOnlyWhatChanged(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	p, _ := honest(t, b) // 20 records
	c := dialRaw(t, b)
	req := fetchOf(11, "honest", 0)
	req.SessionEpoch, req.Topics[0].Partitions[0].FetchOffset = 0, 20
	first := c.fetch(req, 5*time.Second)
	if first.SessionID == 0 || len(first.Topics) != 1 {
		t.Fatalf("no session: %+v", first)
	}
	next := fetchOf(11, "honest")
	next.Topics, next.SessionID, next.SessionEpoch, next.MaxWaitMillis = nil, first.SessionID, 1, 50
	if r := c.fetch(next, 5*time.Second); r.ErrorCode != 0 || len(r.Topics) != 0 {
		t.Errorf("nothing changed, but: %+v", r)
	}
	next.SessionEpoch, next.MaxWaitMillis = 2, 20_000
	go func() {
		time.Sleep(100 * time.Millisecond)
		p.ProduceSync(t.Context(), kgo.StringRecord("x"))
	}()
	start := time.Now()
	if r := c.fetch(next, 30*time.Second); len(r.Topics) != 1 || len(r.Topics[0].Partitions[0].RecordBatches) == 0 {
		t.Errorf("new data was not told: %+v", r)
	}
	if took := time.Since(start); took > 15*time.Second { // max.wait is 20
		t.Errorf("an idle fetch woke after %v", took)
	}
	if r := c.fetch(next, 5*time.Second); r.ErrorCode != errInvalidFetchSessionEpoch {
		t.Errorf("an old session epoch: error %d", r.ErrorCode)
	}
	next.SessionID++
	if r := c.fetch(next, 5*time.Second); r.ErrorCode != errFetchSessionIDNotFound {
		t.Errorf("a foreign session: error %d", r.ErrorCode)
	}
}
