package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Op is an operation of IncrementalAlterConfigs. The numbers are Kafka's.
type Op int8

// The operations.
const (
	OpSet      Op = 0
	OpDelete   Op = 1
	OpAppend   Op = 2 // to a list
	OpSubtract Op = 3 // from a list
)

// Alteration is one operation on one setting.
type Alteration struct {
	Name  string
	Op    Op
	Value *string // nil: null
}

// Change is what a series of alterations comes to.
type Change struct {
	// Values are all values afterwards.
	Values map[string]string
	Set    map[string]string // to write
	Delete []string          // to remove
	// Expect and ExpectAbsent are what Append and Subtract started from: the
	// change is right only while they hold.
	Expect       map[string]string
	ExpectAbsent []string
}

// AlterTopic works out what alterations make of a topic's overrides, and
// checks the outcome.
func (b *Broker) AlterTopic(current map[string]string, ops []Alteration) (Change, error) {
	c, err := alter(current, ops, TopicSetting, unknownTopic, func(s *Setting) string {
		return b.topicValue(b.current.Load(), s, nil).text
	})
	if err != nil {
		return c, err
	}
	// Each new value is checked; one that another version left behind must not
	// stand in the way of the others.
	return c, b.checkTopic(b.Topic(c.Values))
}

// AlterBroker does the same for the dynamic settings of a broker, or of all.
func (b *Broker) AlterBroker(current map[string]string, ops []Alteration) (Change, error) {
	c, err := alter(current, ops, BrokerSetting, unknownBroker, func(s *Setting) string {
		return b.current.Load().values[s.Name].text
	})
	if err != nil {
		return c, err
	}
	return c, b.ValidateBroker(c.Set)
}

// alter is the part that topics and brokers share. inherited is the value that
// an append starts from when the resource has none of its own: as in Kafka,
// what is in force.
func alter(current map[string]string, ops []Alteration, find func(string) *Setting, unknown func(string) error, inherited func(*Setting) string) (Change, error) {
	c := Change{Values: maps.Clone(current), Set: map[string]string{}, Expect: map[string]string{}}
	if c.Values == nil {
		c.Values = map[string]string{}
	}
	done := map[string]bool{}
	for _, op := range ops {
		if op.Name == "" {
			return c, malformed("", "a config entry without a name")
		}
		if done[op.Name] {
			return c, malformed(op.Name, "Error due to duplicate config keys: %s", shorten(op.Name))
		}
		done[op.Name] = true
		s := find(op.Name)
		if op.Op == OpDelete {
			// Anything that is there can be removed, known or not.
			if _, there := current[op.Name]; s == nil && !there {
				return c, unknown(op.Name)
			}
			delete(c.Values, op.Name)
			c.Delete = append(c.Delete, op.Name)
			continue
		}
		if s == nil {
			return c, unknown(op.Name)
		}
		if op.Value == nil {
			return c, malformed(op.Name, "Null value not supported for : %s", op.Name)
		}
		text := *op.Value
		if op.Op == OpAppend || op.Op == OpSubtract {
			if s.Type != List {
				return c, invalid(op.Name, "Can't %s config %s: its type is %v, not list", op.Op, op.Name, s.Type)
			}
			own, there := current[op.Name]
			if there {
				c.Expect[op.Name] = own
			} else {
				own = inherited(s)
				c.ExpectAbsent = append(c.ExpectAbsent, op.Name)
			}
			text = op.Op.combine(splitList(own), splitList(text))
		} else if op.Op != OpSet {
			return c, malformed(op.Name, "Unknown config operation %d", int8(op.Op))
		}
		v, err := s.parse(text)
		if err != nil {
			return c, err
		}
		c.Values[op.Name], c.Set[op.Name] = v.text, v.text
	}
	return c, nil
}

func (o Op) combine(have, operand []string) string {
	out := slices.Clone(have)
	for _, e := range operand {
		switch {
		case o == OpAppend && !slices.Contains(out, e):
			out = append(out, e)
		case o == OpSubtract:
			out = slices.DeleteFunc(out, func(s string) bool { return s == e })
		}
	}
	return strings.Join(out, ",")
}

func (o Op) String() string {
	switch o {
	case OpSet:
		return "SET"
	case OpDelete:
		return "DELETE"
	case OpAppend:
		return "APPEND"
	case OpSubtract:
		return "SUBTRACT"
	default:
		return fmt.Sprintf("Op(%d)", int8(o))
	}
}
