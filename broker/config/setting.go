package config

import (
	"fmt"
	"slices"
)

// Type is the type of a setting's value. The numbers are those of
// DescribeConfigs.
type Type int8

// The types of values.
const (
	Boolean Type = 1
	String  Type = 2
	Int     Type = 3
	Short   Type = 4
	Long    Type = 5
	Double  Type = 6
	List    Type = 7
)

func (t Type) String() string {
	switch t {
	case Boolean:
		return "boolean"
	case String:
		return "string"
	case Int:
		return "int"
	case Short:
		return "short"
	case Long:
		return "long"
	case Double:
		return "double"
	case List:
		return "list"
	default:
		return fmt.Sprintf("Type(%d)", int8(t))
	}
}

// Source says where a value comes from. The numbers are those of
// DescribeConfigs.
type Source int8

// The sources of values, strongest first.
const (
	DynamicTopic         Source = 1
	DynamicBroker        Source = 2
	DynamicDefaultBroker Source = 3
	StaticBroker         Source = 4
	Default              Source = 5
)

func (s Source) String() string {
	switch s {
	case DynamicTopic:
		return "topic"
	case DynamicBroker:
		return "dynamic broker"
	case DynamicDefaultBroker:
		return "dynamic default"
	case StaticBroker:
		return "static"
	case Default:
		return "default"
	default:
		return fmt.Sprintf("Source(%d)", int8(s))
	}
}

// Update says how a broker setting may change while the broker runs.
type Update int8

// The ways to change a broker setting.
const (
	ReadOnly    Update = iota // at start only
	ClusterWide               // IncrementalAlterConfigs, for one broker or for all
)

func (u Update) String() string {
	if u == ClusterWide {
		return "cluster-wide"
	}
	return "read-only"
}

// Setting is one row of the tables.
type Setting struct {
	Name string
	Type Type
	// Default is the value when nobody gives one; meaningless if Unset.
	Default string
	// Unset tells that there is no default: the value is null until given.
	Unset  bool
	Valid  Rule
	Update Update // of broker settings; topic settings can always change
	Doc    string
	// Inert tells why the setting is accepted and changes nothing; empty for
	// the settings that do something.
	Inert string
	// Synonyms of a topic setting are its broker settings, strongest first. Of
	// a broker setting: the family that it belongs to, itself included.
	Synonyms []Synonym
}

// Synonym is a broker setting that gives another one its value.
type Synonym struct {
	Name string
	// Scale converts the synonym's unit (hours) to the setting's (ms).
	Scale int64
}

// Rule restricts the values of a setting beyond its type.
type Rule struct {
	// Text describes the valid values, for the reference: "at least 1".
	Text  string
	check func(v value) error
}

// atLeast is the rule that Kafka calls Range.atLeast.
func atLeast(low int64) Rule {
	return Rule{
		Text: fmt.Sprintf("[%d,...]", low),
		check: func(v value) error {
			if v.n < low {
				return fmt.Errorf("value must be at least %d", low)
			}
			return nil
		},
	}
}

func between(low, high int64) Rule {
	return Rule{
		Text: fmt.Sprintf("[%d,...,%d]", low, high),
		check: func(v value) error {
			if v.n < low {
				return fmt.Errorf("value must be at least %d", low)
			}
			if v.n > high {
				return fmt.Errorf("value must be no more than %d", high)
			}
			return nil
		},
	}
}

func ratio() Rule {
	return Rule{
		Text: "[0,...,1]",
		check: func(v value) error {
			if !(v.f >= 0 && v.f <= 1) {
				return fmt.Errorf("value must be between 0 and 1")
			}
			return nil
		},
	}
}

// oneOf allows some strings only; in a list, each element, each once.
func oneOf(names ...string) Rule {
	return Rule{
		Text: fmt.Sprintf("%v", names),
		check: func(v value) error {
			for i, s := range v.elements() {
				if !slices.Contains(names, s) {
					return fmt.Errorf("string must be one of: %s", joinComma(names))
				}
				if slices.Contains(v.elements()[:i], s) {
					return fmt.Errorf("%s is given twice", s)
				}
			}
			return nil
		},
	}
}

// only allows one value, because the others would promise what is not there.
func only(allowed, why string) Rule {
	return Rule{
		Text: "only " + allowed,
		check: func(v value) error {
			if v.text != allowed {
				return fmt.Errorf("only %q is supported here: %s", allowed, why)
			}
			return nil
		},
	}
}
