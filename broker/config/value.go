package config

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// ErrInvalid is what every error about a value or name of a setting wraps.
var ErrInvalid = errors.New("invalid configuration")

// Invalid is a setting that cannot be: its text is meant for the person who
// set it.
type Invalid struct {
	Name   string
	Reason string
	// Malformed tells that the request makes no sense whatever the setting: a
	// setting twice, no value where one is needed.
	Malformed bool
}

func (e *Invalid) Error() string { return e.Reason }

// Unwrap makes errors.Is(err, ErrInvalid) hold.
func (e *Invalid) Unwrap() error { return ErrInvalid }

func invalid(name, format string, args ...any) *Invalid {
	return &Invalid{Name: name, Reason: fmt.Sprintf(format, args...)}
}

func malformed(name, format string, args ...any) *Invalid {
	return &Invalid{Name: name, Reason: fmt.Sprintf(format, args...), Malformed: true}
}

// value is a parsed value. text is its canonical form.
type value struct {
	text string
	n    int64 // Int, Short, Long, and Boolean as 0 or 1
	f    float64
	list []string
	set  bool // false: null
}

// elements are the strings that a rule for names looks at.
func (v value) elements() []string {
	if v.list != nil {
		return v.list
	}
	return []string{v.text}
}

// parse turns text into a value of the setting's type and applies its rule.
func (s *Setting) parse(text string) (value, error) {
	v := value{text: strings.TrimSpace(text), set: true}
	var err error
	switch s.Type {
	case Boolean:
		switch strings.ToLower(v.text) {
		case "true":
			v.text, v.n = "true", 1
		case "false":
			v.text = "false"
		default:
			err = errors.New("expected value to be either true or false")
		}
	case Short:
		err = v.integer(math.MinInt16, math.MaxInt16, "SHORT")
	case Int:
		err = v.integer(math.MinInt32, math.MaxInt32, "INT")
	case Long:
		err = v.integer(math.MinInt64, math.MaxInt64, "LONG")
	case Double:
		v.f, err = strconv.ParseFloat(v.text, 64)
		if err != nil || math.IsNaN(v.f) || math.IsInf(v.f, 0) {
			err = errors.New("not a number of type DOUBLE")
		}
	case List:
		v.list = splitList(v.text)
		v.text = strings.Join(v.list, ",")
	case String:
	default:
		panic(fmt.Sprintf("BUG: setting %s has %v", s.Name, s.Type))
	}
	if err == nil && s.Valid.check != nil {
		err = s.Valid.check(v)
	}
	if err != nil {
		return value{}, invalid(s.Name, "Invalid value %s for configuration %s: %v", shorten(text), s.Name, err)
	}
	return v, nil
}

func (v *value) integer(low, high int64, name string) error {
	n, err := strconv.ParseInt(v.text, 10, 64)
	if err != nil || n < low || n > high {
		return fmt.Errorf("not a number of type %s", name)
	}
	v.n, v.text = n, strconv.FormatInt(n, 10)
	return nil
}

// splitList takes a comma separated list apart; empty elements do not count.
func splitList(text string) []string {
	list := []string{}
	for e := range strings.SplitSeq(text, ",") {
		if e = strings.TrimSpace(e); e != "" {
			list = append(list, e)
		}
	}
	return list
}

func joinComma(s []string) string { return strings.Join(s, ", ") }

// shorten keeps a peer from filling our answers and logs.
func shorten(s string) string {
	const most = 200
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
