package broker

import (
	"encoding/binary"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"millrace/broker/wire"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// eachShape runs f for every version of every request that kmsg decodes.
func eachShape(f func(row *api, version int16, s *shape)) {
	for i := range apis {
		for j, s := range apis[i].shapes {
			f(&apis[i], apis[i].min+int16(j), s)
		}
	}
}

// What a shape walks over is exactly what the encoder writes.
func TestShapesAreThoseOfTheEncoder(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 3))
	eachShape(func(row *api, version int16, s *shape) {
		for range 200 {
			req := kmsg.RequestForKey(row.key)
			fill(rng, reflect.ValueOf(req).Elem())
			req.SetVersion(version)
			body := req.AppendTo(nil)
			w := shapeWalk{r: wire.NewReader(body), flexible: version >= row.flexible, left: shapeBytesMax}
			if !w.walk(s) || w.r.Left() != 0 {
				t.Fatalf("%s version %d: %d of %d bytes are left, of %+v", kmsg.NameForKey(row.key), version, w.r.Left(), len(body), req)
			}
			if err := s.check(body, version >= row.flexible); err != nil {
				t.Fatalf("%s version %d: %v", kmsg.NameForKey(row.key), version, err)
			}
			if len(body) > 0 {
				if cut := body[:rng.IntN(len(body))]; s.check(cut, version >= row.flexible) == nil && row.key != 18 {
					if err := req.ReadFrom(cut); err != nil {
						t.Fatalf("%s version %d: %d of %d bytes pass", kmsg.NameForKey(row.key), version, len(cut), len(body))
					}
				}
			}
		}
	})
}

// Many topics and partitions, as large clients have them, are not too much.
func TestShapesLetLargeRequestsPass(t *testing.T) {
	m := kmsg.NewPtrMetadataRequest()
	o := kmsg.NewPtrOffsetFetchRequest()
	g := kmsg.NewOffsetFetchRequestGroup()
	for range 50_000 {
		mt := kmsg.NewMetadataRequestTopic()
		mt.Topic = kmsg.StringPtr("a-topic")
		m.Topics = append(m.Topics, mt)
		gt := kmsg.NewOffsetFetchRequestGroupTopic()
		gt.Topic, gt.Partitions = "a-topic", []int32{0, 1, 2}
		g.Topics = append(g.Topics, gt)
	}
	o.Groups = append(o.Groups, g)
	for _, req := range []kmsg.Request{m, o} {
		row := lookup(req.Key())
		for v := row.min; v <= row.max; v++ {
			req.SetVersion(v)
			if err := row.shapes[v-row.min].check(req.AppendTo(nil), v >= row.flexible); err != nil {
				t.Errorf("%s version %d: %v", kmsg.NameForKey(row.key), v, err)
			}
		}
	}
}

// Ten bytes can announce four billion tags, and a megabyte a million topics.
func TestAnnouncedCountsCostNothing(t *testing.T) {
	b, _ := startBroker(t, t.TempDir())
	p, c := honest(t, b)
	tags := append([]byte{2, 'a', 2, 'b'}, 0xff, 0xff, 0xff, 0xff, 0x0f)
	topics := append(binary.AppendUvarint(nil, 20<<20), make([]byte, 20<<20)...)
	for _, attack := range []struct {
		key, version int16
		body         []byte
	}{{18, 3, tags}, {3, 9, topics}} {
		f := binary.BigEndian.AppendUint16(make([]byte, 4), uint16(attack.key))
		f = binary.BigEndian.AppendUint16(f, uint16(attack.version))
		f = append(f, 0, 0, 0, 1, 0xff, 0xff, 0)
		f = append(f, attack.body...)
		binary.BigEndian.PutUint32(f, uint32(len(f)-4))
		a := dialRaw(t, b)
		_, _ = a.Write(f)
		if worst := roundTrips(t, p, c, 3); worst > clientPatience {
			t.Errorf("%s: a record of another client took %v", kmsg.NameForKey(attack.key), worst)
		}
		if _, _, err := a.receive(5 * time.Second); err == nil {
			t.Errorf("%s: it was answered", kmsg.NameForKey(attack.key))
		}
	}
}

func FuzzShape(f *testing.F) {
	for i := range apis {
		f.Add(uint8(i), uint8(0), kmsg.RequestForKey(apis[i].key).AppendTo(nil))
	}
	f.Fuzz(func(t *testing.T, api, version uint8, body []byte) {
		row := &apis[int(api)%len(apis)]
		if row.shapes == nil {
			return
		}
		j := int(version) % len(row.shapes)
		v := row.min + int16(j)
		if row.shapes[j].check(body, v >= row.flexible) != nil {
			return
		}
		req := kmsg.RequestForKey(row.key)
		req.SetVersion(v)
		start := time.Now()
		_ = req.ReadFrom(body)
		if took := time.Since(start); took > clientPatience {
			t.Errorf("%s version %d: decoding %d bytes took %v", kmsg.NameForKey(row.key), v, len(body), took)
		}
	})
}
