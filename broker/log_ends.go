package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"

	"millrace/raft"
	"millrace/raft/controller"
	"millrace/raft/transport"
)

// methodLogEnds of the cluster port asks a broker where its logs end: before an unclean election, to choose who lacks
// least. The question is places, a topic id (16 bytes) and a partition (uvarint) each; the answer has for each, in the
// same order, the leader epoch of the newest batch and the end (varints), or -1 and -1 where there is no such log.
const methodLogEnds = raft.FirstFreeMethod + 16

// logPlace names a log of any broker.
type logPlace struct {
	topic     raft.UUID
	partition int32
}

// logPlacesMax bounds one question.
const logPlacesMax = 10_000

var errLogEnds = errors.New("malformed question or answer about the ends of logs")

func appendLogPlaces(b []byte, places []logPlace) []byte {
	for _, p := range places {
		b = append(b, p.topic[:]...)
		b = binary.AppendUvarint(b, uint64(p.partition))
	}
	return b
}

func decodeLogPlaces(b []byte) ([]logPlace, error) {
	var out []logPlace
	for len(b) > 0 {
		var p logPlace
		if len(b) < len(p.topic) || len(out) == logPlacesMax {
			return nil, errLogEnds
		}
		b = b[copy(p.topic[:], b):]
		n, size := binary.Uvarint(b)
		if size <= 0 || n > 1<<31-1 {
			return nil, errLogEnds
		}
		p.partition, b = int32(n), b[size:]
		out = append(out, p)
	}
	return out, nil
}

func appendLogEnd(b []byte, epoch int32, end int64) []byte {
	return binary.AppendVarint(binary.AppendVarint(b, int64(epoch)), end)
}

// decodeLogEnds reads the answer to a question; logs that the broker has not are left out.
func decodeLogEnds(b []byte, places []logPlace) (map[logPlace]controller.LogEnd, error) {
	out := map[logPlace]controller.LogEnd{}
	for _, p := range places {
		epoch, n := binary.Varint(b)
		if n <= 0 || epoch < -1 || epoch > 1<<31-1 {
			return nil, errLogEnds
		}
		b = b[n:]
		end, n := binary.Varint(b)
		if n <= 0 || end < -1 {
			return nil, errLogEnds
		}
		if b = b[n:]; end >= 0 {
			out[p] = controller.LogEnd{Epoch: int32(epoch), End: end}
		}
	}
	if len(b) > 0 {
		return nil, errLogEnds
	}
	return out, nil
}

// serveLogEnds answers other brokers.
func (b *Broker) serveLogEnds() {
	b.meta.Port().Serve(methodLogEnds, func(_ context.Context, _ transport.Identity, body []byte) ([]byte, error) {
		places, err := decodeLogPlaces(body)
		if err != nil {
			return nil, err
		}
		return b.ownLogEnds(places), nil
	})
}

func (b *Broker) ownLogEnds(places []logPlace) []byte {
	var out []byte
	for _, p := range places {
		if l := b.engine.Log(p.topic, p.partition); l != nil {
			out = appendLogEnd(out, l.LastEpoch(), l.AppendedEnd())
		} else {
			out = appendLogEnd(out, -1, -1)
		}
	}
	return out
}

// askLogEnds asks brokers where their logs end, all at once. Who does not answer is left out.
func (b *Broker) askLogEnds(ctx context.Context, ask map[int32][]logPlace) map[int32]map[logPlace]controller.LogEnd {
	out := map[int32]map[logPlace]controller.LogEnd{}
	var mu sync.Mutex
	var asking sync.WaitGroup
	for id, places := range ask {
		asking.Go(func() {
			ends, err := b.logEndsOf(ctx, id, places)
			if err != nil {
				b.log.Warn("a broker did not say where its logs end", "broker", id, "error", err)
			}
			mu.Lock()
			out[id] = ends
			mu.Unlock()
		})
	}
	asking.Wait()
	return out
}

func (b *Broker) logEndsOf(ctx context.Context, id int32, places []logPlace) (map[logPlace]controller.LogEnd, error) {
	out := map[logPlace]controller.LogEnd{}
	for len(places) > 0 {
		part := places[:min(len(places), logPlacesMax)]
		places = places[len(part):]
		body := []byte(nil)
		if id == b.nodeID {
			body = b.ownLogEnds(part)
		} else {
			to, ok := b.meta.Target(id)
			if !ok {
				return out, errNoAddress
			}
			var err error
			if body, err = b.meta.Port().Call(ctx, to, methodLogEnds, appendLogPlaces(nil, part)); err != nil {
				return out, err
			}
		}
		ends, err := decodeLogEnds(body, part)
		if err != nil {
			return out, err
		}
		for p, e := range ends {
			out[p] = e
		}
	}
	return out, nil
}

var errNoAddress = errors.New("no address of its cluster port is known")
