package config

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// File is what a configuration file says.
type File struct {
	// Values are the settings to give to New.
	Values map[string]string
	// Warnings are for the log: settings of Kafka that change nothing here,
	// and settings given twice.
	Warnings []string
}

// maxFileBytes bounds a configuration file, and maxLineBytes a logical line.
const (
	maxFileBytes = 4 << 20
	maxLineBytes = 1 << 20
)

// Parse reads a configuration file in the form of Java's properties, as Kafka's
// server.properties: key=value lines, # comments, a backslash at the end of a
// line continues it. name is for messages. Every mistake in the file is
// reported, joined into one error: unknown keys with the nearest known one,
// values that are not valid, and keys of Kafka whose absence would hurt.
func Parse(r io.Reader, name string) (*File, error) {
	lines, err := readProperties(io.LimitReader(r, maxFileBytes+1), name)
	if err != nil {
		return nil, err
	}
	f := &File{Values: map[string]string{}}
	var errs []error
	seen := map[string]int{}
	for _, l := range lines {
		at := func(err error) error { return fmt.Errorf("%s:%d: %w", name, l.number, err) }
		if first := seen[l.key]; first != 0 {
			f.Warnings = append(f.Warnings, fmt.Sprintf("%s:%d: %s is set in line %d too: this line wins", name, l.number, l.key, first))
		}
		seen[l.key] = l.number
		s := brokerByName[l.key]
		if s == nil {
			if u := knownUnsupported(l.key); u != nil && (u.verdict == ignore || harmless(l.value)) {
				f.Warnings = append(f.Warnings, fmt.Sprintf("%s:%d: %s is ignored: %s", name, l.number, l.key, u.why))
				continue
			}
			errs = append(errs, at(unknownBroker(l.key)))
			continue
		}
		if l.value == "" && s.Type != List {
			// In Kafka too an empty value of a number is an error; of a string
			// without a default it is the same as no line.
			if s.Unset && s.Type == String {
				continue
			}
		}
		if _, err := s.parse(l.value); err != nil {
			errs = append(errs, at(err))
			continue
		}
		if s.Inert != "" {
			f.Warnings = append(f.Warnings, fmt.Sprintf("%s:%d: %s is accepted and changes nothing: %s", name, l.number, l.key, s.Inert))
		}
		f.Values[l.key] = l.value
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	dropControllerListeners(f, lines, name)
	return f, nil
}

// harmless tells whether a refused setting is given a value that asks for
// nothing.
func harmless(v string) bool {
	switch strings.ToLower(v) {
	case "", "false", "none", "null":
		return true
	default:
		return false
	}
}

// dropControllerListeners leaves out the listeners that a KRaft file has for
// its controller: clients do not use them, and here there is none.
func dropControllerListeners(f *File, lines []property, name string) {
	var names []string
	for _, l := range lines {
		if l.key == "controller.listener.names" {
			names = splitList(l.value)
		}
	}
	for _, key := range []string{"listeners", "advertised.listeners"} {
		text, ok := f.Values[key]
		if !ok || len(names) == 0 {
			continue
		}
		var keep []string
		for _, l := range splitList(text) {
			listener, _, _ := strings.Cut(l, "://")
			if containsFold(names, listener) {
				f.Warnings = append(f.Warnings, fmt.Sprintf("%s: %s: %s is ignored: it is the controller's, and %s", name, key, l, noKRaft))
				continue
			}
			keep = append(keep, l)
		}
		f.Values[key] = strings.Join(keep, ",")
		if len(keep) == 0 {
			delete(f.Values, key)
		}
	}
}

func containsFold(list []string, s string) bool {
	for _, e := range list {
		if strings.EqualFold(e, s) {
			return true
		}
	}
	return false
}

// property is one line of a file.
type property struct {
	key, value string
	number     int // of its first physical line, from 1
}

// readProperties takes a file of Java's properties apart.
func readProperties(r io.Reader, name string) ([]property, error) {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 4096), maxLineBytes)
	var (
		out    []property
		number int
		start  int
		joined strings.Builder
		more   bool
		total  int
	)
	for sc.Scan() {
		number++
		line := sc.Text()
		if total += len(line) + 1; total > maxFileBytes {
			return nil, fmt.Errorf("%s: a configuration file is at most %d bytes", name, maxFileBytes)
		}
		if number == 1 {
			line = strings.TrimPrefix(line, "\ufeff")
		}
		if !utf8.ValidString(line) {
			return nil, fmt.Errorf("%s:%d: not UTF-8", name, number)
		}
		line = strings.TrimLeft(strings.TrimRight(line, "\r"), " \t\f")
		if !more {
			if line == "" || line[0] == '#' || line[0] == '!' {
				continue
			}
			start = number
			joined.Reset()
		}
		line, more = continues(line)
		joined.WriteString(line)
		if joined.Len() > maxLineBytes {
			return nil, fmt.Errorf("%s:%d: a line is at most %d bytes", name, start, maxLineBytes)
		}
		if more {
			continue
		}
		p, err := splitProperty(joined.String())
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, start, err)
		}
		p.number = start
		out = append(out, p)
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("%s:%d: %w", name, number+1, err)
	}
	if more {
		return nil, fmt.Errorf("%s:%d: the file ends in a continued line", name, start)
	}
	return out, nil
}

// continues strips the backslash that joins a line to the next one: an odd
// number of them at the end.
func continues(line string) (string, bool) {
	n := len(line) - len(strings.TrimRight(line, `\`))
	if n%2 == 1 {
		return line[:len(line)-1], true
	}
	return line, false
}

// splitProperty cuts a logical line at its first unescaped separator.
func splitProperty(line string) (property, error) {
	cut := len(line)
	for i := 0; i < len(line); i++ {
		if line[i] == '\\' {
			i++
		} else if strings.IndexByte("=: \t\f", line[i]) >= 0 {
			cut = i
			break
		}
	}
	key, rest := line[:cut], strings.TrimLeft(line[cut:], " \t\f")
	if rest != "" && (rest[0] == '=' || rest[0] == ':') {
		rest = strings.TrimLeft(rest[1:], " \t\f")
	}
	var p property
	var err error
	if p.key, err = unescape(key); err != nil {
		return p, err
	}
	if p.key == "" {
		return p, errors.New("a line without a key")
	}
	p.value, err = unescape(rest)
	p.value = strings.TrimSpace(p.value)
	return p, err
}

// unescape resolves \t, \n, \r, \f, \uXXXX and a backslash before anything else.
func unescape(s string) (string, error) {
	if !strings.Contains(s, `\`) {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		switch s[i] {
		case 't':
			b.WriteByte('\t')
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case 'f':
			b.WriteByte('\f')
		case 'u':
			r, err := hex4(s[i+1:])
			if err != nil {
				return "", err
			}
			i += 4
			if utf16.IsSurrogate(r) && strings.HasPrefix(s[i+1:], `\u`) {
				if low, err := hex4(s[i+3:]); err == nil && utf16.DecodeRune(r, low) != utf8.RuneError {
					r = utf16.DecodeRune(r, low)
					i += 6
				}
			}
			b.WriteRune(r)
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), nil
}

func hex4(s string) (rune, error) {
	if len(s) < 4 {
		return 0, errors.New(`\u needs four hexadecimal digits`)
	}
	n, err := strconv.ParseUint(s[:4], 16, 16)
	if err != nil {
		return 0, errors.New(`\u needs four hexadecimal digits`)
	}
	return rune(n), nil
}
