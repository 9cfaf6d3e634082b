package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// seconds is a flag value: a Go duration (1m30s) or a bare number of seconds (30).
type seconds time.Duration

func (s *seconds) String() string { return time.Duration(*s).String() }
func (s *seconds) Type() string   { return "duration" }

func (s *seconds) Set(text string) error {
	if n, err := strconv.ParseFloat(text, 64); err == nil {
		if n < 0 || n > math.MaxInt32 || math.IsNaN(n) {
			return fmt.Errorf("%s is no number of seconds", text)
		}
		*s = seconds(n * float64(time.Second))
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return fmt.Errorf("%q is no duration: write 30, 30s or 1m30s", text)
	}
	*s = seconds(d)
	return nil
}

// milliseconds is a flag value: a Go duration or a bare number of milliseconds, as Kafka's linger.ms.
type milliseconds time.Duration

func (m *milliseconds) String() string { return time.Duration(*m).String() }
func (m *milliseconds) Type() string   { return "duration" }

func (m *milliseconds) Set(text string) error {
	if n, err := strconv.ParseFloat(text, 64); err == nil {
		if n < 0 || n > math.MaxInt32 || math.IsNaN(n) {
			return fmt.Errorf("%s is no number of milliseconds", text)
		}
		*m = milliseconds(n * float64(time.Millisecond))
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return fmt.Errorf("%q is no duration: write 5, 5ms or 1s", text)
	}
	*m = milliseconds(d)
	return nil
}

// byteSize is a flag value: a number of bytes with an optional unit (KiB, MiB, GiB, or k, m, g for the same).
type byteSize int64

func (b *byteSize) Type() string { return "size" }

func (b *byteSize) String() string {
	n := int64(*b)
	for _, u := range byteUnits {
		if n != 0 && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

func (b *byteSize) Set(text string) error {
	number, scale := strings.TrimSpace(strings.ToLower(text)), int64(1)
	for _, u := range byteUnits {
		for _, suffix := range u.suffixes {
			if rest, ok := strings.CutSuffix(number, suffix); ok && scale == 1 {
				number, scale = strings.TrimSpace(rest), u.bytes
			}
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/scale {
		return fmt.Errorf("%q is no size: write 67108864, 64MiB or 64m", text)
	}
	*b = byteSize(n * scale)
	return nil
}

var byteUnits = []struct {
	name     string
	bytes    int64
	suffixes []string
}{
	{"GiB", 1 << 30, []string{"gib", "gb", "g"}},
	{"MiB", 1 << 20, []string{"mib", "mb", "m"}},
	{"KiB", 1 << 10, []string{"kib", "kb", "k"}},
}
