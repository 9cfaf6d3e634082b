package config

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync/atomic"
	"time"
)

// Broker is the settings of one broker: what its file and command line say, and
// what the metadata says on top. It may be used from any goroutine.
type Broker struct {
	static  map[string]string // canonical, valid; read only
	current atomic.Pointer[snapshot]
}

// snapshot is every broker setting at one moment. Immutable.
type snapshot struct {
	perBroker, cluster map[string]string // dynamic values, valid ones only
	values             map[string]value  // resolved: by name, without families
	rejected           []error           // dynamic values that do not fit this version
}

// Dynamic is where dynamic broker settings come from: the metadata's image.
type Dynamic interface {
	// BrokerConfig are the values for one broker, ClusterConfig those for all.
	BrokerConfig(id int32) map[string]string
	ClusterConfig() map[string]string
}

// New checks the values of a file and a command line. A name of Kafka that is
// known and not honoured, and an unknown one, are errors here: Parse sorts them
// out first.
func New(values map[string]string) (*Broker, error) {
	b := &Broker{static: make(map[string]string, len(values))}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		s := brokerByName[name]
		if s == nil {
			return nil, unknownBroker(name)
		}
		v, err := s.parse(values[name])
		if err != nil {
			return nil, err
		}
		b.static[name] = v.text
	}
	b.current.Store(b.resolve(nil, nil))
	return b, b.check()
}

// check looks at what a single value cannot show.
func (b *Broker) check() error {
	if low, high := b.long("group.min.session.timeout.ms"), b.long("group.max.session.timeout.ms"); low > high {
		return invalid("group.min.session.timeout.ms", "group.min.session.timeout.ms (%d) is above group.max.session.timeout.ms (%d)", low, high)
	}
	if a, ok := b.static["node.id"]; ok {
		if old, both := b.static["broker.id"]; both && a != old {
			return invalid("node.id", "node.id (%s) and broker.id (%s) differ: they are two names of one setting", a, old)
		}
	}
	if _, err := b.Listeners(); err != nil {
		return err
	}
	if _, err := b.AdvertisedListeners(); err != nil {
		return err
	}
	if err := b.checkTopic(b.Topic(nil)); err != nil {
		return err
	}
	return nil
}

// SetDynamic takes over the dynamic settings of an image. Values that this
// version does not know or cannot take are left out; Rejected tells them.
func (b *Broker) SetDynamic(d Dynamic) {
	perBroker, cluster := d.BrokerConfig(b.NodeID()), d.ClusterConfig()
	old := b.current.Load()
	if maps.Equal(old.perBroker, perBroker) && maps.Equal(old.cluster, cluster) {
		return
	}
	b.current.Store(b.resolve(perBroker, cluster))
}

// Rejected are the dynamic values that are stored and not in effect.
func (b *Broker) Rejected() []error { return b.current.Load().rejected }

// resolve computes every broker setting.
func (b *Broker) resolve(perBroker, cluster map[string]string) *snapshot {
	sn := &snapshot{perBroker: map[string]string{}, cluster: map[string]string{}, values: make(map[string]value, len(allBroker))}
	take := func(from, to map[string]string) {
		for _, name := range slices.Sorted(maps.Keys(from)) {
			s := brokerByName[name]
			if s == nil || s.Update == ReadOnly {
				sn.rejected = append(sn.rejected, invalid(name, "the stored dynamic value of %s is not in effect: it cannot change while the broker runs", name))
				continue
			}
			if v, err := s.parse(from[name]); err != nil {
				sn.rejected = append(sn.rejected, err)
			} else {
				to[name] = v.text
			}
		}
	}
	take(perBroker, sn.perBroker)
	take(cluster, sn.cluster)
	for _, s := range allBroker {
		sn.values[s.Name] = b.valueOf(sn, s)
	}
	return sn
}

// valueOf resolves one broker setting by itself.
func (b *Broker) valueOf(sn *snapshot, s *Setting) value {
	for _, l := range b.levels(sn) {
		if text, ok := l.values[s.Name]; ok {
			return mustParse(s, text)
		}
	}
	if s.Unset {
		return value{}
	}
	return mustParse(s, s.Default)
}

// level is one place where values of broker settings come from.
type level struct {
	source Source
	values map[string]string
}

func (b *Broker) levels(sn *snapshot) [3]level {
	return [3]level{{DynamicBroker, sn.perBroker}, {DynamicDefaultBroker, sn.cluster}, {StaticBroker, b.static}}
}

// mustParse parses what was checked before.
func mustParse(s *Setting, text string) value {
	v, err := s.parse(text)
	if err != nil {
		panic(fmt.Sprintf("BUG: a value in use is not valid: %v", err))
	}
	return v
}

// get is the value of a broker setting, or of the first of its family that has
// one given, else the default.
func (b *Broker) get(name string) value {
	sn := b.current.Load()
	v, ok := sn.values[name]
	if !ok {
		panic("BUG: no broker setting " + name)
	}
	return v
}

func (b *Broker) long(name string) int64 { return b.get(name).n }
func (b *Broker) millis(name string) time.Duration {
	return time.Duration(b.get(name).n) * time.Millisecond
}
func (b *Broker) given(name string) (value, bool) { v := b.get(name); return v, v.set }

// isGiven tells whether somebody set a setting, to the default or not.
func (b *Broker) isGiven(name string) bool {
	for _, l := range b.levels(b.current.Load()) {
		if _, ok := l.values[name]; ok {
			return true
		}
	}
	return false
}

// saturate multiplies without running over; -1 stays -1.
func saturate(n, by int64) int64 {
	const most = 1<<63 - 1
	switch {
	case n < 0:
		return -1
	case by > 1 && n > most/by:
		return most
	default:
		return n * by
	}
}

// unscale is a default in the synonym's unit.
func unscale(text string, scale int64) string {
	if scale == 1 {
		return text
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n%scale != 0 {
		panic("BUG: " + text + " is no multiple of its unit")
	}
	return strconv.FormatInt(n/scale, 10)
}
