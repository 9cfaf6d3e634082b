package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"

	"millrace/broker/wire"
	"millrace/netpoll"

	"github.com/twmb/franz-go/pkg/kmsg"
)

type options struct {
	addr       string
	partitions int
	loops      int
	flush      bool
	dir        string
	fileBytes  int64
	io         string
}

// broker answers and forgets. It implements netpoll.Handler.
type broker struct {
	opts options
	net  *netpoll.Server
	addr net.Addr
	host string
	port int32
	how  string

	topics  atomic.Pointer[topics] // replaced, never changed
	mu      sync.Mutex             // of who replaces it
	journal []*journal             // with --flush, one for each loop

	nextProducer     atomic.Int64
	batches, records atomic.Int64
}

type topics struct {
	byName map[string]*topic
	byID   map[[16]byte]*topic
}

type topic struct {
	name string
	id   [16]byte
	next []atomic.Int64 // the offset of the next record, by partition
}

func start(o options) (*broker, error) {
	b := &broker{opts: o, how: "discarding"}
	b.topics.Store(&topics{byName: map[string]*topic{}, byID: map[[16]byte]*topic{}})
	var err error
	if b.net, err = netpoll.New(netpoll.Options{Loops: o.loops}, b); err != nil {
		return nil, err
	}
	if o.flush {
		for i, l := range b.net.Loops() {
			j, err := openJournal(o, i)
			if err != nil {
				b.stop(context.Background())
				return nil, err
			}
			b.journal = append(b.journal, j)
			l.AddFD(j.queue.EventFD(), j.poll)
			l.OnTurnEnd(j.poll)
		}
		b.how = "one durable write a turn by " + b.journal[0].how
	}
	if b.addr, err = b.net.Listen(o.addr); err != nil {
		b.stop(context.Background())
		return nil, err
	}
	host, port, err := net.SplitHostPort(b.addr.String())
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	b.host, b.port = host, int32(n)
	b.net.Start()
	return b, nil
}

func (b *broker) stop(ctx context.Context) {
	_ = b.net.Shutdown(ctx)
	for _, j := range b.journal {
		j.close()
	}
}

// writes is the number of durable writes. After stop.
func (b *broker) writes() (n int64) {
	for _, j := range b.journal {
		n += j.writes
	}
	return n
}

// topic finds a topic by name, and makes it if it must.
func (b *broker) topic(name []byte) *topic {
	if t := b.topics.Load().byName[string(name)]; t != nil {
		return t
	}
	t, _ := b.create(string(name), b.opts.partitions)
	return t
}

// create makes a topic; fresh is false if it was there.
func (b *broker) create(name string, partitions int) (t *topic, fresh bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.topics.Load()
	if t := old.byName[name]; t != nil {
		return t, false
	}
	t = &topic{name: name, next: make([]atomic.Int64, partitions)}
	_, _ = rand.Read(t.id[:]) // never fails
	wider := &topics{byName: map[string]*topic{t.name: t}, byID: map[[16]byte]*topic{t.id: t}}
	for _, t := range old.byName {
		wider.byName[t.name], wider.byID[t.id] = t, t
	}
	b.topics.Store(wider)
	return t, true
}

// session is what the broker keeps for a connection.
type session struct {
	produce wire.ProduceReader
	body    []byte // the response under way, kept for its capacity
}

// OnOpen implements netpoll.Handler.
func (b *broker) OnOpen(c *netpoll.Conn) { c.Data = new(session) }

// OnClose implements netpoll.Handler.
func (b *broker) OnClose(*netpoll.Conn, error) {}

var errRequest = errors.New("request not understood")

// OnFrame implements netpoll.Handler.
func (b *broker) OnFrame(c *netpoll.Conn, f netpoll.Frame) {
	defer f.Release()
	r := wire.NewReader(f.Data)
	h := wire.ReadHeaderStart(&r)
	if r.Err() != nil {
		c.Close(r.Err())
		return
	}
	if h.Key == 0 && h.Version >= wire.ProduceMin && h.Version <= wire.ProduceMax {
		r.Tags(wire.ProduceFlexible(h.Version), nil)
		b.produce(c, h, r.Rest())
		return
	}
	b.other(c, h, &r)
}

// answerable are the requests answered with kmsg, with the versions offered.
var answerable = []struct{ key, min, max int16 }{{0, wire.ProduceMin, wire.ProduceMax}, {1, 4, 12}, {3, 0, 12}, {18, 0, 4}, {19, 2, 7}, {22, 0, 5}}

func (b *broker) other(c *netpoll.Conn, h wire.RequestHeader, r *wire.Reader) {
	if h.Key == 18 && h.Version > 4 {
		// KIP-511: version 0 with an error, and the client asks again.
		resp := b.apiVersions()
		resp.ErrorCode = 35
		reply(c, h, resp, 0)
		return
	}
	known := false
	for _, a := range answerable[1:] {
		known = known || a.key == h.Key && h.Version >= a.min && h.Version <= a.max
	}
	if !known {
		c.Close(fmt.Errorf("%w: key %d version %d", errRequest, h.Key, h.Version))
		return
	}
	req := kmsg.RequestForKey(h.Key)
	req.SetVersion(h.Version)
	r.Tags(req.IsFlexible(), nil)
	if err := req.ReadFrom(r.Rest()); err != nil {
		c.Close(err)
		return
	}
	var resp kmsg.Response
	switch q := req.(type) {
	case *kmsg.ApiVersionsRequest:
		resp = b.apiVersions()
	case *kmsg.FetchRequest:
		resp = b.fetch(q)
	case *kmsg.MetadataRequest:
		resp = b.metadata(q)
	case *kmsg.CreateTopicsRequest:
		resp = b.createTopics(q)
	case *kmsg.InitProducerIDRequest:
		p := kmsg.NewPtrInitProducerIDResponse()
		p.ProducerID = b.nextProducer.Add(1)
		resp = p
	}
	reply(c, h, resp, h.Version)
}

func reply(c *netpoll.Conn, h wire.RequestHeader, resp kmsg.Response, version int16) {
	resp.SetVersion(version)
	out := c.Loop().NewResponse()
	// The header of an ApiVersions response is never flexible.
	out.Commit(resp.AppendTo(wire.AppendResponseHeader(out.Buffer(), h.CorrelationID, resp.IsFlexible() && h.Key != 18)))
	c.Reply(c.Begin(), out)
}

func (b *broker) apiVersions() *kmsg.ApiVersionsResponse {
	resp := kmsg.NewPtrApiVersionsResponse()
	for _, a := range answerable {
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MinVersion, k.MaxVersion = a.key, a.min, a.max
		resp.ApiKeys = append(resp.ApiKeys, k)
	}
	return resp
}

// fetch answers that there is nothing. librdkafka writes today's record batches only to a broker that offers Fetch.
func (b *broker) fetch(q *kmsg.FetchRequest) *kmsg.FetchResponse {
	resp := kmsg.NewPtrFetchResponse()
	for _, w := range q.Topics {
		ft := kmsg.NewFetchResponseTopic()
		ft.Topic = w.Topic
		for _, p := range w.Partitions {
			fp := kmsg.NewFetchResponseTopicPartition()
			fp.Partition, fp.HighWatermark, fp.LogStartOffset = p.Partition, p.FetchOffset, p.FetchOffset
			ft.Partitions = append(ft.Partitions, fp)
		}
		resp.Topics = append(resp.Topics, ft)
	}
	return resp
}

func (b *broker) metadata(q *kmsg.MetadataRequest) *kmsg.MetadataResponse {
	resp := kmsg.NewPtrMetadataResponse()
	node := kmsg.NewMetadataResponseBroker()
	node.NodeID, node.Host, node.Port = 1, b.host, b.port
	resp.Brokers = append(resp.Brokers, node)
	resp.ControllerID = 1
	resp.ClusterID = kmsg.StringPtr("nullbroker")
	add := func(t *topic) {
		mt := kmsg.NewMetadataResponseTopic()
		mt.Topic, mt.TopicID = kmsg.StringPtr(t.name), t.id
		for i := range t.next {
			mp := kmsg.NewMetadataResponseTopicPartition()
			mp.Partition, mp.Leader, mp.LeaderEpoch = int32(i), 1, 0
			mp.Replicas, mp.ISR = []int32{1}, []int32{1}
			mt.Partitions = append(mt.Partitions, mp)
		}
		resp.Topics = append(resp.Topics, mt)
	}
	if q.Topics == nil {
		for _, t := range b.topics.Load().byName {
			add(t)
		}
	}
	for _, w := range q.Topics {
		if w.Topic != nil {
			add(b.topic([]byte(*w.Topic)))
		} else if t := b.topics.Load().byID[w.TopicID]; t != nil {
			add(t)
		} else {
			mt := kmsg.NewMetadataResponseTopic()
			mt.TopicID, mt.ErrorCode = w.TopicID, errUnknownTopicID
			resp.Topics = append(resp.Topics, mt)
		}
	}
	return resp
}

func (b *broker) createTopics(q *kmsg.CreateTopicsRequest) *kmsg.CreateTopicsResponse {
	resp := kmsg.NewPtrCreateTopicsResponse()
	for _, w := range q.Topics {
		partitions := int(w.NumPartitions)
		if partitions <= 0 {
			partitions = b.opts.partitions
		}
		ct := kmsg.NewCreateTopicsResponseTopic()
		ct.Topic = w.Topic
		if partitions > partitionsMax {
			ct.ErrorCode = errInvalidPartitions
		} else if t, fresh := b.create(w.Topic, partitions); fresh {
			ct.TopicID, ct.NumPartitions, ct.ReplicationFactor = t.id, int32(partitions), 1
		} else {
			ct.ErrorCode = errTopicAlreadyExists
		}
		resp.Topics = append(resp.Topics, ct)
	}
	return resp
}
